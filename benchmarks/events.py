"""Product events through a real stream and a worker to a node: how fresh, how many, in how much memory.

freshness  1,000 vector-ready events a second for 30 s, whole products and patches by turns: from when each was
           published until its change was durable and searchable, by the worker's own histogram
photos     new photos from a web server, as fast as they go, by turns with the model alone
replay     a day's events, all in the stream before the worker starts: rate, and memory of every process over time

    python -m benchmarks.events [--parts freshness,photos,replay] [--events 1000000] [--minutes 60] [--folder DIR]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
import tempfile
import time
import urllib.request
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.change_stream import build_index
from benchmarks.image_queries import index_some, random_photo
from benchmarks.meter import COMMAND, cpu_s, memory, with_children, write
from encoders.image.client import ImageEncoder
from encoders.image.preprocessing import preprocess
from encoders.image.signature import DEFAULT_INPUT_PX
from lookalike.changes import patch_change, upsert_change
from lookalike.channels import aio_channel
from lookalike.errors import Unavailable
from lookalike.local import process_specs
from lookalike.local.probes import accepts_connections, free_ports, is_serving, redis_answers
from lookalike.local.supervisor import Supervisor
from lookalike.runtime.deadline import Deadline
from lookalike.stream import event as events
from lookalike.stream.product_stream import ProductStream
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import DEFAULT_GROUP, StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.event_pb2 import ProductEvent
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, SpaceVector
from lookalike.vectors import F32

PARTS = ("freshness", "photos", "replay")
COUNT, RATE_PER_S, SECONDS, PHOTOS, PHOTO_PX = 100_000, 1000, 30, 256, 400
CAVEATS = (
    "publisher, Redis, worker, node and, for photos, model and web server share two cores of a shared machine; "
    "appendfsync always"
)
_TICK_S = 0.01
_APPEND = 500
_ROUNDS, _DRAWN = 3, 64
_MEMORY_S = 60.0  # Between two looks at the memory of all processes.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", default=",".join(PARTS))
    parser.add_argument("--events", type=int, default=1_000_000, help="of the replay")
    parser.add_argument("--minutes", type=float, default=60, help="that the replay takes at most")
    parser.add_argument("--folder", type=Path, help="keep the index here, and use the one that is here")
    parser.add_argument("--serve-photos", type=int, metavar="PORT", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_photos:
        serve_photos(options.serve_photos)
        return
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as scratch:
        folder = options.folder or Path(scratch)
        if not (folder / "index" / "CURRENT").exists():
            build_index(folder, COUNT)
        for part in options.parts.split(","):
            result = asyncio.run(_run(part, folder, Path(scratch) / part, options))
            print(write(f"events_{part}", {"catalogue": f"{COUNT} x 1024-d", **result, "caveats": CAVEATS}))


async def _run(part: str, folder: Path, scratch: Path, options: argparse.Namespace) -> dict[str, Any]:
    (scratch / "redis").mkdir(parents=True)
    with Supervisor(scratch / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        system = System(folder, scratch, processes)
        match part:
            case "freshness":
                return await freshness(system, np.load(folder / "vectors.npy"))
            case "photos":
                return await photos(system)
            case "replay":
                return await replay(system, np.load(folder / "vectors.npy"), options.events, options.minutes * 60)
        raise SystemExit(f"{part}: not one of {', '.join(PARTS)}")


class System:
    """The processes of a part, started one by one."""

    def __init__(self, folder: Path, scratch: Path, processes: Supervisor) -> None:
        self.folder, self.scratch, self.processes = folder, scratch, processes
        names = ("redis", "node", "worker", "worker metrics", "model server", "photos")
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))
        self.settings = StreamSettings(url=f"redis://{self.address('redis')}", max_events=2_000_000)

    def address(self, name: str) -> str:
        return f"127.0.0.1:{self.ports[name]}"

    def start_redis(self) -> None:
        executable = process_specs.redis_executable()
        assert executable is not None, "no redis-server"  # noqa: S101  # a script of its own
        spec = process_specs.stream(executable, self.scratch / "redis", self.ports["redis"])
        self._start("redis", list(spec.command), partial(redis_answers, self.address("redis")))

    def start_node(self) -> None:
        words = ["serve", "node", "--location", str(self.folder / "index"), "--live-dir", str(self.scratch / "live")]
        self._start_server("node", words)

    def start_worker(self, *words: str) -> None:
        stream = ["--stream", self.settings.url, "--gateway", self.address("node")]
        metrics = ["--metrics-port", str(self.ports["worker metrics"])]
        self._start_server("worker", ["serve", "worker", *stream, *metrics, *words])

    def start_model_server(self) -> None:
        models = self.scratch / "models"
        self.processes.run("export", [*COMMAND, "encoders", "export", str(models), "--weights", "untrained"])
        self._start_server("model server", ["serve", "model-server", "--models", str(models)])

    def start_web_server(self) -> None:
        command = [sys.executable, "-m", "benchmarks.events", "--serve-photos", str(self.ports["photos"])]
        self._start("photos", command, partial(accepts_connections, self.address("photos")))

    def _start_server(self, name: str, words: list[str]) -> None:
        command = [*COMMAND, *words, "--port", str(self.ports[name])]
        self._start(name, command, partial(is_serving, self.address(name)))

    def _start(self, name: str, command: list[str], ready: Any) -> None:
        self.processes.start(name, command, ready=ready)
        self.processes.wait_ready(timeout_s=300)

    def pid(self, name: str) -> int:
        return self.processes.pids()[name]

    def peak_mib(self, name: str) -> int:
        lines = Path(f"/proc/{self.pid(name)}/status").read_text().splitlines()
        (peak,) = [line for line in lines if line.startswith("VmHWM")]
        return int(peak.split()[1]) >> 10

    def freshness(self) -> dict[str, float]:
        """Percentiles in milliseconds, interpolated within the buckets of the worker's histogram."""
        url = f"http://{self.address('worker metrics')}/metrics"
        text = urllib.request.urlopen(url).read().decode()  # of this machine
        buckets = [
            (float(sample.labels["le"]), sample.value)
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == "lookalike_worker_freshness_seconds_bucket"
        ]
        bounds, counts = [0.0, *(bound for bound, _ in buckets)], [0.0, *(count for _, count in buckets)]
        bounds[-1] = bounds[-2]
        found = {f"p{each:g}_ms": np.interp(each / 100 * counts[-1], counts, bounds) * 1e3 for each in (50, 99, 99.9)}
        return {name: round(float(value), 1) for name, value in found.items()} | {"events": counts[-1]}

    def memory_mib(self) -> str:
        """Of each process and its children: resident memory, and of it what no file is mapped to."""
        found = {name: memory(with_children([pid])) for name, pid in self.processes.pids().items()}
        return ", ".join(f"{name} {each.rss_bytes >> 20} ({each.own_bytes >> 20})" for name, each in found.items())

    async def until_done(self) -> None:
        stream = await open_redis_stream(self.settings)
        try:
            while (await stream.status(DEFAULT_GROUP)).lag:  # noqa: ASYNC110  # The worker changes it.
                await asyncio.sleep(0.1)
            assert not await stream.dead_letters()  # noqa: S101  # a script of its own
        finally:
            await stream.close()


def vector_ready(vectors: F32, seed: int) -> Iterator[ProductEvent]:
    """Whole products with their vectors, and patches of prices, by turns; of products at random."""
    random = np.random.default_rng(seed)
    revision = int(unix_time_s() * 1000)
    while True:
        for row in random.integers(0, COUNT, 1000).tolist():
            revision += 1
            product_id = f"{row:06}"
            if revision % 2:
                title, price = f"changed {revision}", float(revision % 997)
                product = Product(id=product_id, title=title, category="c1/d1", price=price)
                change = upsert_change(product, revision=revision, allow_unfindable=True)
                vector = vectors[int(random.integers(len(vectors)))].tobytes()
                change.upsert.vectors.append(SpaceVector(space=SPACE_IMAGE, vector=vector, encoder="benchmark"))
            else:
                change = patch_change(product_id, revision=revision, price=float(revision % 997))
            yield events.new_event(change, source="benchmark", published_at_s=unix_time_s())


async def freshness(system: System, vectors: F32) -> dict[str, Any]:
    system.start_redis()
    system.start_node()
    system.start_worker()
    stream = await open_redis_stream(system.settings)
    made = vector_ready(vectors, 0)
    for _ in range(200):  # Warm up: a first batch of each kind.
        await stream.append([next(made) for _ in range(10)])
    await system.until_done()
    before, cpu_before_s = system.freshness()["events"], cpu_s(system.pid("worker"))
    began_s, published = time.monotonic(), 0
    appending: set[asyncio.Task[Any]] = set()
    while (now_s := time.monotonic() - began_s) < SECONDS:
        batch = [next(made) for _ in range(int(now_s * RATE_PER_S) - published)]
        if batch:
            published += len(batch)
            task = asyncio.create_task(stream.append(batch))
            appending.add(task)
            task.add_done_callback(appending.discard)
        await asyncio.sleep(_TICK_S)
    await asyncio.gather(*appending)
    await system.until_done()
    await stream.close()
    found = system.freshness()
    used_s = cpu_s(system.pid("worker")) - cpu_before_s
    return {
        "events per second": round(published / SECONDS),
        "from published to searchable, warm-up included": found,
        "worker, cpu_us per event": round(used_s / (found["events"] - before) * 1e6, 1),
    }


async def photos(system: System) -> dict[str, Any]:
    """The index has vectors of another encoder, so the node is of one product whose space is the model's."""
    system.start_model_server()
    location = system.scratch / "index"
    await _index_of_model(location, system.ports["model server"])
    system.folder = system.scratch
    system.start_redis()
    system.start_node()
    system.start_web_server()
    features = ["--features", str(system.scratch / "features"), "--allow-networks", "127.0.0.0/8"]
    system.start_worker("--model-server", system.address("model server"), *features)
    stream = await open_redis_stream(system.settings)
    names = ("worker", "node", "redis", "photos", "model server")
    alone, through = [], []
    for number in range(_ROUNDS + 1):
        alone.append(await _measured(system, ("model server",), PHOTOS, partial(_model_alone, system)))
        published = [_with_photo(system, number * PHOTOS + each) for each in range(PHOTOS)]
        through.append(await _measured(system, names, PHOTOS, partial(_publish, system, stream, published)))
    await stream.close()
    alone, through = alone[1:], through[1:]  # The first is the warm-up.
    model_ms = float(np.median([cpu_ms["model server"] for _, cpu_ms in alone]))
    cpu_ms = {name: float(np.median([each[name] for _, each in through])) for name in names}
    path_ms = sum(cpu_ms.values()) - cpu_ms["photos"]
    return {
        "photos per second, each round": [round(per_s, 1) for per_s, _ in through],
        "model alone, photos per second, each round": [round(per_s, 1) for per_s, _ in alone],
        "share of the model's own rate": round(
            float(np.median([a / b for (a, _), (b, _) in zip(through, alone, strict=True)])), 3
        ),
        "cpu_ms per photo": {name: round(each, 2) for name, each in cpu_ms.items()},
        "cpu_ms per photo of the model alone": round(model_ms, 2),
        "share of the model's own rate per core, without the web server": round(model_ms / path_ms, 3),
        "photo": f"{PHOTO_PX} px JPEG, {PHOTOS} in each of {_ROUNDS} rounds, the model alone and the path by turns",
    }


async def _measured(
    system: System, names: Sequence[str], count: int, work: Callable[[], Awaitable[None]]
) -> tuple[float, dict[str, float]]:
    """Photos per second, and milliseconds of CPU per photo by process."""
    began_s, before = time.monotonic(), {name: cpu_s(system.pid(name)) for name in names}
    await work()
    took_s = time.monotonic() - began_s
    return count / took_s, {name: (cpu_s(system.pid(name)) - before[name]) / count * 1e3 for name in names}


async def _publish(system: System, stream: ProductStream, published: Sequence[ProductEvent]) -> None:
    await stream.append(published)
    await system.until_done()


def _with_photo(system: System, number: int) -> ProductEvent:
    image = f"http://{system.address('photos')}/{number}.jpg"
    product = Product(id=f"new{number}", title=f"new {number}", category="c1/d1", image=image)
    change = upsert_change(product, revision=int(unix_time_s() * 1000), encode=True)
    return events.new_event(change, source="benchmark", published_at_s=unix_time_s())


async def _model_alone(system: System) -> None:
    """Send decoded photos straight to the model server, enough in flight to keep it busy."""
    pixels = np.stack([preprocess(random_photo(number, PHOTO_PX), DEFAULT_INPUT_PX) for number in range(16)])
    async with aio_channel(system.address("model server")) as channel:
        encoder, left = ImageEncoder(channel), iter(range(PHOTOS // len(pixels)))

        async def send() -> None:
            for _ in left:
                await encoder.encode(pixels, Deadline.after(60))

        await asyncio.gather(send(), send())


async def _index_of_model(location: Path, port: int) -> None:
    pixels = np.stack([preprocess(random_photo(number, PHOTO_PX), DEFAULT_INPUT_PX) for number in range(64)])
    await index_some(location, port, pixels)


def serve_photos(port: int) -> None:
    """Every number is a photo with other bytes: drawing one takes longer than encoding it, so a comment tells them."""
    drawn = [random_photo(number, PHOTO_PX) for number in range(_DRAWN)]

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            number = int(self.path.strip("/").removesuffix(".jpg"))
            photo = drawn[number % len(drawn)]
            body = photo[:2] + b"\xff\xfe\0\x0a%08d" % number + photo[2:]  # A COM segment behind SOI.
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


async def replay(system: System, vectors: F32, count: int, at_most_s: float) -> dict[str, Any]:
    system.start_redis()
    stream = await open_redis_stream(system.settings)
    made = vector_ready(vectors, 1)
    for start in range(0, count, _APPEND):
        await stream.append([next(made) for _ in range(min(_APPEND, count - start))])
    system.start_node()
    began_s = time.monotonic()
    system.start_worker()
    samples: list[str] = []
    lag, took_s = count, 0.0
    while lag and took_s < at_most_s:
        with suppress(Unavailable):  # A Redis that is busy on a busy machine.
            lag = (await stream.status(DEFAULT_GROUP)).lag
        took_s = time.monotonic() - began_s
        if not lag or took_s >= len(samples) * _MEMORY_S:
            samples.append(f"{took_s:.0f} s, {count - lag} made: {system.memory_mib()}")
            print(samples[-1], flush=True)
        await asyncio.sleep(0.5)
    dead = await stream.dead_letters()
    assert not dead, dead  # noqa: S101  # a script of its own
    await stream.close()
    made_events = count - lag
    return {
        "events": count,
        "made": made_events,
        "seconds": round(took_s, 1),
        "events per second": round(made_events / took_s),
        "cpu_us per event": {
            name: round(cpu_s(system.pid(name)) / made_events * 1e6, 1) for name in ("worker", "node")
        },
        "peak MiB": {name: system.peak_mib(name) for name in ("worker", "node", "redis")},
        "MiB, resident and of it (mapped to no file)": samples,
    }


if __name__ == "__main__":
    main()
