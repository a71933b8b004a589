"""A process that consumes a stream until it is killed: `python -m tests.contract.stream_child URL SEED`.

It applies events by writing them to standard output, a line each before it acks: what a shard would have.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time

from lookalike.errors import Unavailable
from lookalike.stream import event as events
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import DEFAULT_GROUP, StreamSettings


async def main(url: str, seed: int) -> None:
    rng = random.Random(seed)
    stream = await open_redis_stream(StreamSettings(url=url, lease_s=1.0, heartbeat_s=0.1))
    async with stream.consumer(DEFAULT_GROUP, "child") as consumer:
        while True:
            try:
                batch = await consumer.poll(max_records=20, max_bytes=1 << 20, wait_s=0.5)
                for record in batch.records:
                    if consumer.holds(record):
                        change = record.event.change
                        # The clock is that of the machine: the times of several processes can be compared.
                        print(events.product_id_of(change), events.revision_of(change), time.monotonic_ns(), flush=True)
                await asyncio.sleep(rng.uniform(0, 0.02))
                await consumer.ack(batch.records)
            except Unavailable:
                continue


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
