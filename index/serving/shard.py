"""`lookalike serve shard`: one shard of the index as a process."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from index.serving.loaded import LoadedShard, opened
from index.serving.pool import Pool
from index.serving.service import SERVICE, IndexShard
from lookalike import lifecycle, telemetry
from lookalike.errors import BadSettings
from lookalike.settings import ProcessSettings, load, setting

log = logging.getLogger(__name__)

WARM_UP_QUERIES = 64

DESCRIPTION = """One shard of the index, for gateways.

Verifies the checksums of its files, maps them, searches with real vectors to warm up, and only then is ready.

  lookalike serve shard --location index --shard 0 --port 7000
  lookalike serve shard --location index --pod-name lookalike-shard-2     (shard 2, as in a StatefulSet)"""


@dataclass(frozen=True, kw_only=True)
class ShardSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_SHARD_"

    location: Path | None = setting(None, "the index location, as written by `lookalike index build` or `update`")  # noqa: RUF009  # `setting` makes a field, not a value
    shard: int = setting(-1, "which shard this is, from 0; -1: the number at the end of pod-name", at_least=-1)
    pod_name: str = setting("", "name of the StatefulSet's pod, whose last number is the shard's when shard is -1")
    version: str = setting("", "version to serve; empty: the one that LOCATION/CURRENT names at start")
    threads: int = setting(0, "searches at a time, one core each; 0: as many as cores", at_least=0, at_most=256)
    max_waiting: int = setting(256, "calls that may wait for a thread; more are refused at once", at_least=0)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    settings = load(ShardSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_logging(settings.log_level)
    asyncio.run(run(settings))
    return 0


async def run(settings: ShardSettings) -> None:
    location, shard = location_of(settings), ordinal(settings)
    pool = Pool(threads=settings.threads or len(os.sched_getaffinity(0)), max_waiting=settings.max_waiting)
    service = IndexShard(pool)

    async def warm_up() -> None:
        service.serve(await asyncio.to_thread(_warm, location, shard, settings.version))

    try:
        await lifecycle.serve(settings, [service.handler()], services=[SERVICE.full_name], warm_up=warm_up)
    finally:
        pool.close()


def location_of(settings: ShardSettings) -> Path:
    if settings.location is None:
        raise BadSettings("--location is not given: where is the index?")
    return settings.location


def ordinal(settings: ShardSettings) -> int:
    """Which shard to serve. Raises BadSettings."""
    if settings.shard >= 0:
        return settings.shard
    if (number := re.search(r"(?:^|-)(\d+)$", settings.pod_name)) is None:
        raise BadSettings(f"neither --shard nor a --pod-name that ends in a number is given: {settings.pod_name!r}")
    return int(number[1])


def _warm(location: Path, number: int, version: str) -> LoadedShard:
    shard = opened(location, number, version)
    for space in shard.base.spaces:
        shard.search(list(shard.sample(space, WARM_UP_QUERIES)))
    log.info("shard %d of version %s: %d products", number, shard.manifest.version, len(shard.base.table))
    return shard
