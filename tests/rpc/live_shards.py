"""Real shards that take changes, over real gRPC in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from index.live.live_shard import LiveLimits, LiveShard
from index.serving.service import IndexShard
from index.serving.shard_version import open_shard
from index.serving.slots import Slots
from index.serving.writer import Writer
from tests.rpc.gateways import SHARDS, serving
from tests.unit.index.samples import serving_only


@asynccontextmanager
async def live_shards(directory: Path) -> AsyncIterator[tuple[str, str]]:
    """The addresses of the shards of `directory`/index, with changes in `directory`/live."""
    slots, handlers, writers, lives = Slots(threads=1, max_waiting=64), [], [], []
    for number in range(SHARDS):
        shard = open_shard(directory / "index", number)
        live = directory / "live" / str(number)
        lives.append(LiveShard(shard.base, shard.manifest, number, live, LiveLimits(delta_rows=64, changes=1000)))
        served = serving_only(shard.with_live(lives[-1]))
        writers.append(Writer(served, max_waiting=2000))
        handlers.append(IndexShard(slots, served, writers[-1]).handler())
    async with serving(handlers[0]) as first, serving(handlers[1]) as second:
        yield first, second
    for writer in writers:
        writer.close()
    for live_shard in lives:
        live_shard.close()
    slots.close()
