"""How many product events does a Redis take and give, alone and in batches, each on disk when acknowledged?

    python -m benchmarks.event_stream [--events 20000]

A redis-server with `appendfsync always`; one process appends events of products with a title, a description of 300
characters and a photo's path, and then polls and acks all of them. CPU is that of this process and of Redis, per event.
The result is in results/event_stream.json.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import secrets
import subprocess
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from benchmarks import meter
from lookalike.changes import upsert_change
from lookalike.local import probes, process_specs
from lookalike.stream import event as events
from lookalike.stream.product_stream import Consumer, ProductStream
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import DEFAULT_GROUP, StreamSettings
from lookalike.v1.event_pb2 import ProductEvent
from lookalike.v1.types_pb2 import Product

_ROUNDS = 3


def event(number: int) -> ProductEvent:
    product = Product(
        id=f"p-{number:07}",
        title=f"red running shoe for women, light, number {number}",
        description="waterproof and handmade " * 13,
        category="fashion/shoes/sneakers",
        image=f"images/{number:07}.jpg",
        price=4900,
        currency="JPY",
    )
    return events.new_event(upsert_change(product, revision=1, encode=True), source="benchmark", published_at_s=1.0)


async def measured(work: Callable[[], Awaitable[None]], count: int, redis: int) -> dict[str, float]:
    """Events a second, and the CPU of each."""
    own, other, start_s = time.process_time(), meter.cpu_s(redis), time.monotonic()
    await work()
    took_s = time.monotonic() - start_s
    return {
        "per_s": round(count / took_s),
        "process_cpu_us": round((time.process_time() - own) / count * 1e6, 1),
        "redis_cpu_us": round((meter.cpu_s(redis) - other) / count * 1e6, 1),
    }


async def append(stream: ProductStream, batches: Sequence[Sequence[ProductEvent]]) -> None:
    for each in batches:
        await stream.append(each)


async def consume(consumer: Consumer, count: int, at_once: int) -> None:
    while count > 0:
        records = (await consumer.poll(max_records=at_once, max_bytes=8 << 20, wait_s=1)).records
        await consumer.ack(records)
        count -= len(records)


async def run(url: str, count: int, redis: int) -> dict[str, dict[str, float]]:
    result: dict[str, dict[str, float]] = {}
    for batch in (1, 10, 500):
        taken, at_once = min(count, 2000 * batch), max(batch, 10)
        settings = StreamSettings(url=url, prefix=f"benchmark:{secrets.token_hex(4)}", lease_s=60, max_events=2 * count)
        batches = [[event(n) for n in range(start, min(start + batch, taken))] for start in range(0, taken, batch)]
        stream = await open_redis_stream(settings)
        result[f"append_{batch}"] = await measured(partial(append, stream, batches), taken, redis)
        async with stream.consumer(DEFAULT_GROUP, "benchmark") as consumer:
            while len(consumer.partitions) < stream.partitions:  # noqa: ASYNC110  # its heartbeat takes them
                await asyncio.sleep(0.01)
            consuming = partial(consume, consumer, taken, at_once)
            result[f"poll_and_ack_{at_once}_after_{batch}"] = await measured(consuming, taken, redis)
        await stream.close()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=20_000)
    args = parser.parse_args()
    executable = process_specs.redis_executable()
    if executable is None:
        raise SystemExit("no redis-server")
    (port,) = probes.free_ports(1)
    with tempfile.TemporaryDirectory(prefix="lookalike-") as folder:
        command = [str(executable), "--port", str(port), "--bind", "127.0.0.1", "--dir", folder, "--save", ""]
        command += ["--appendonly", "yes", "--appendfsync", "always", "--loglevel", "warning"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as redis:  # noqa: S603
            try:
                while not probes.redis_answers(f"127.0.0.1:{port}"):
                    time.sleep(0.05)
                rounds = [asyncio.run(run(f"redis://127.0.0.1:{port}", args.events, redis.pid)) for _ in range(_ROUNDS)]
            finally:
                redis.kill()
    result = {
        name: {figure: sorted(each[name][figure] for each in rounds)[_ROUNDS // 2] for figure in rounds[0][name]}
        for name in rounds[0]
    }
    print(json.dumps(result, indent=1))
    size_bytes = event(0).ByteSize()
    if args.events == parser.get_default("events"):
        caveats = f"events of {size_bytes} bytes; one connection, one call at a time; loopback; medians of {_ROUNDS}"
        done = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True)  # noqa: S603
        version = done.stdout.split()[2]
        meter.write("event_stream", {"redis": version, **result, "caveats": caveats})


if __name__ == "__main__":
    main()
