"""Photo queries through gateway, model server and shard, against the model alone in the same runtime.

The model alone: batches of decoded photos, sent straight to the model server, enough in flight to keep it busy. A photo
query: a JPEG that was not sent before, so that no answer is cached. Untrained weights unless --weights: they cost the
same. Measured in turn, `--rounds` times; medians.

    python -m benchmarks.image_queries [--weights FILE] [--calls 200] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from benchmarks.meter import COMMAND, Load, closed_loop, median, write
from encoders.image.client import ImageEncoder
from encoders.image.preprocessing import preprocess
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor
from lookalike.runtime.deadline import Deadline
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE

SIDE_PX = 400
BATCH = 8
INFLIGHT = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    photos = [random_photo(i) for i in range(options.calls)]
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        print(write("image_queries", measure(Path(folder), photos, options.rounds, options.weights)))


def random_photo(seed: int) -> bytes:
    """A JPEG of 400 x 400 pixels, another one for each seed."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((SIDE_PX, SIDE_PX), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def measure(folder: Path, photos: list[bytes], rounds: int, weights: str) -> dict[str, Any]:
    models = folder / "models"
    model, shard, gateway = free_ports(3)
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        processes.run("export", [*COMMAND, "encoders", "export", str(models), "--weights", weights])
        command = [*COMMAND, "serve", "model-server", "--models", str(models), "--port", str(model)]
        processes.start("model server", command, ready=partial(is_serving, f"127.0.0.1:{model}"))
        processes.wait_ready(timeout_s=180)
        pixels = np.stack([preprocess(photo) for photo in photos])
        asyncio.run(index_some(folder / "index", model, pixels[:64]))
        command = [
            *COMMAND,
            "serve",
            "shard",
            "--location",
            str(folder / "index"),
            "--shard",
            "0",
            "--port",
            str(shard),
        ]
        processes.start("shard", command, ready=partial(is_serving, f"127.0.0.1:{shard}"))
        words = ["--shards", f"127.0.0.1:{shard}", "--model-server", f"127.0.0.1:{model}", "--cache-ttl-s", "0"]
        command = [*COMMAND, "serve", "gateway", *words, "--port", str(gateway)]
        processes.start("gateway", command, ready=partial(is_serving, f"127.0.0.1:{gateway}"))
        processes.wait_ready(timeout_s=60)
        pids = list(processes.pids().values())
        alone: list[Load] = []
        served: list[Load] = []
        for _ in range(rounds):
            alone.append(asyncio.run(model_load(model, pixels, pids)))
            served.append(asyncio.run(query_load(gateway, photos, pids)))
    images_per_s = median(alone, "per_s") * BATCH
    return {
        "weights": weights,
        "model_alone_images_per_s": round(images_per_s, 2),
        "queries_per_s": round(median(served, "per_s"), 2),
        "of_model_throughput": round(median(served, "per_s") / images_per_s, 3),
        "cpu_ms_per_image_alone": round(median(alone, "cpu_us") / BATCH / 1e3, 2),
        "cpu_ms_per_query": round(median(served, "cpu_us") / 1e3, 2),
        "p50_ms": round(median(served, "p50_ms"), 1),
        "p99_ms": round(median(served, "p99_ms"), 1),
        "caveats": "closed loop, 16 in flight; photos of 400 px are decoded on the same two cores; an index of 64",
    }


async def index_some(location: Path, port: int, pixels: Any) -> None:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        encoded = await ImageEncoder(channel).encode(pixels, Deadline.after(60))
    space = SpaceVectors(encoder=encoded.encoder, vectors=encoded.vectors, rows=np.arange(len(pixels)))
    build(location, pa.table({"id": [f"{i:03}" for i in range(len(pixels))]}), {SPACE_IMAGE: space}, shards=1)


async def model_load(port: int, pixels: Any, pids: list[int]) -> Load:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        encoder = ImageEncoder(channel)
        batches = [pixels[i : i + BATCH] for i in range(0, len(pixels) - BATCH + 1, BATCH)]
        return await closed_loop(lambda i: encoder.encode(batches[i], Deadline.after(60)), range(len(batches)), 4, pids)


async def query_load(port: int, photos: list[bytes], pids: list[int]) -> Load:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        stub = SimilarProductsStub(channel)
        requests = [SearchRequest(examples=[Example(image=photo)]) for photo in photos]
        return await closed_loop(lambda i: stub.Search(requests[i], timeout=60), range(len(requests)), INFLIGHT, pids)


if __name__ == "__main__":
    main()
