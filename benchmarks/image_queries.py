"""Photo queries through a node and a model server, against the model alone in the same runtime.

The model alone: batches of decoded photos, sent straight to the model server, enough in flight to keep it busy. A photo
query: a JPEG that was not sent before, so that no answer is cached. Untrained weights unless --weights: they cost the
same. Measured in turn, `--rounds` times; medians.

CPU is that of all threads of the server processes, without the client's. Decoding a photo is CPU that no server can
avoid and that the model alone does not take: `bound` is the share of the model's throughput per core that would be
reached if a query cost nothing else.

    python -m benchmarks.image_queries [--weights FILE] [--calls 200] [--rounds 3]
"""

from __future__ import annotations

import argparse
import asyncio
import io
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from PIL import Image

from benchmarks.meter import COMMAND, Load, closed_loop, cpu_s, median, write
from encoders.image.client import ImageEncoder
from encoders.image.preprocessing import preprocess
from encoders.image.signature import DEFAULT_INPUT_PX
from index.building.build import SpaceVectors, build
from lookalike.channels import aio_channel
from lookalike.local import process_specs
from lookalike.local.probes import free_ports
from lookalike.local.supervisor import Supervisor
from lookalike.runtime.deadline import Deadline
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.search_pb2_grpc import SimilarProductsStub
from lookalike.v1.types_pb2 import SPACE_IMAGE

SIDES_PX = (400, 224)
BATCH = 8
INFLIGHT = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", default="untrained")
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    photos = {side_px: [random_photo(i, side_px) for i in range(options.calls)] for side_px in SIDES_PX}
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        result = measure(Path(folder), photos, options.rounds, options.weights)
    print(write("image_queries", result))


def random_photo(seed: int, side_px: int) -> bytes:
    """A square JPEG, another one for each seed."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(small).resize((side_px, side_px), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def measure(folder: Path, photos: dict[int, list[bytes]], rounds: int, weights: str) -> dict[str, Any]:
    models, location = folder / "models", folder / "index"
    model_port, node_port = free_ports(2)
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        processes.run("export", [*COMMAND, "encoders", "export", str(models), "--weights", weights])
        model_server = process_specs.model_server(models, model_port)
        processes.start(model_server.name, model_server.command, ready=model_server.ready)
        processes.wait_ready(timeout_s=180)
        pixels = np.stack([preprocess(photo, DEFAULT_INPUT_PX) for photo in photos[SIDES_PX[0]]])
        asyncio.run(index_some(location, model_port, pixels[:64]))
        node = process_specs.node(location, node_port, model_server=model_server)
        processes.start(node.name, [*node.command, "--cache-ttl-s", "0"], ready=node.ready)
        processes.wait_ready(timeout_s=60)
        pids = processes.pids()
        alone: list[Load] = []
        served: dict[int, list[Load]] = {side_px: [] for side_px in photos}
        node_cpu_s: dict[int, list[float]] = {side_px: [] for side_px in photos}
        decode_s: dict[int, list[float]] = {side_px: [] for side_px in photos}
        for _ in range(rounds):
            alone.append(asyncio.run(model_load(model_port, pixels, [*pids.values()])))
            for side_px, each in photos.items():
                began_s = cpu_s(pids[node.name])
                served[side_px].append(asyncio.run(query_load(node_port, each, [*pids.values()])))
                node_cpu_s[side_px].append((cpu_s(pids[node.name]) - began_s) / len(each))
                decode_s[side_px].append(decoding_cpu_s(each))
    alone_ms = median(alone, "cpu_us") / BATCH / 1e3
    images_per_s = median(alone, "per_s") * BATCH
    return {
        "weights": weights,
        "model_alone": {"images_per_s": round(images_per_s, 2), "cpu_ms": round(alone_ms, 2)},
        "photo_queries": {
            f"{side_px} px": {
                "per_s": round(median(loads, "per_s"), 2),
                "of_model_throughput_per_core": round(alone_ms / (median(loads, "cpu_us") / 1e3), 3),
                "bound": round(alone_ms / (alone_ms + float(np.median(decode_s[side_px])) * 1e3), 3),
                "cpu_ms": round(median(loads, "cpu_us") / 1e3, 2),
                "cpu_ms_of_node": round(float(np.median(node_cpu_s[side_px])) * 1e3, 2),
                "cpu_ms_of_decoding": round(float(np.median(decode_s[side_px])) * 1e3, 2),
                "p50_ms": round(median(loads, "p50_ms"), 1),
                "p99_ms": round(median(loads, "p99_ms"), 1),
            }
            for side_px, loads in served.items()
        },
        "caveats": "closed loop, 16 in flight; photos are decoded, and the client runs, on the model's two cores; an "
        "index of 64; other load on the machine: the ratios per CPU are the figures, calls per second are not",
    }


def decoding_cpu_s(photos: Sequence[bytes]) -> float:
    """CPU seconds that a photo takes to be decoded and resized."""
    began_s = time.thread_time()
    for photo in photos:
        preprocess(photo, DEFAULT_INPUT_PX)
    return (time.thread_time() - began_s) / len(photos)


async def index_some(location: Path, port: int, pixels: npt.NDArray[np.uint8]) -> None:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        encoded = await ImageEncoder(channel).encode(pixels, Deadline.after(60))
    space = SpaceVectors(encoder=encoded.encoder, vectors=encoded.vectors, rows=np.arange(len(pixels)))
    build(location, pa.table({"id": [f"{i:03}" for i in range(len(pixels))]}), {SPACE_IMAGE: space}, shards=1)


async def model_load(port: int, pixels: npt.NDArray[np.uint8], pids: list[int]) -> Load:
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
