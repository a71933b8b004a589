"""`lookalike serve shard`: one shard of the index as a process."""

from __future__ import annotations

import asyncio
import logging
import os
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from threadpoolctl import threadpool_limits

from index.backends import gpu
from index.live.live import Bounds
from index.search.space import BATCH
from index.serving.loading import Hold, Loader
from index.serving.pool import Pool
from index.serving.rollout import Rollout
from index.serving.served import Served
from index.serving.service import SERVICE, IndexShard
from index.serving.succession import Succession
from index.serving.writer import Writer
from index.storage.cache import ShardFileCache
from index.storage.location import Directory, open_location
from index.storage.store import ObjectStore
from lookalike.errors import BadSettings
from lookalike.runtime import lifecycle, telemetry
from lookalike.runtime.settings import ProcessSettings, load, setting
from lookalike.spaces import VECTOR_SPACES

log = logging.getLogger(__name__)

DESCRIPTION = """One shard of the index, for gateways.

Verifies the checksums of its files, maps them, searches with real vectors to warm up, and only then is ready. A version
that comes to be CURRENT is served beside the old one, which goes when no gateway and no request needs it any more. What
is wrong with a new version is logged, and the old one serves on.

  lookalike serve shard --location index --shard 0 --port 7000
  lookalike serve shard --location index --pod-name lookalike-shard-2     (shard 2, as in a StatefulSet)"""


@dataclass(frozen=True, kw_only=True)
class ShardSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_SHARD_"

    location: str = setting("", "the index: a directory or a URL (s3://…), as `index build` or `update` wrote it")
    storage_options: str = setting(
        "", "JSON object for fsspec's filesystem of the URL, beside what its library finds itself", secret=True
    )
    cache_dir: Path | None = setting(None, "where the files of an index at a URL are kept; processes may share it")  # noqa: RUF009  # `setting` makes a field, not a value
    cache_bytes: int = setting(
        32 << 30, "most of them, for two versions at least; what was not used longest goes first", at_least=0
    )
    shard: int = setting(-1, "which shard this is, from 0; -1: the number at the end of pod-name", at_least=-1)
    pod_name: str = setting("", "name of the StatefulSet's pod, whose last number is the shard's when shard is -1")
    version: str = setting("", "version to serve for ever; empty: the one that LOCATION/CURRENT names, followed")
    poll_s: float = setting(5.0, "how often CURRENT is looked at", at_least=0.05, at_most=3600)
    lease_s: float = setting(
        30.0,
        "how long a version is kept after a gateway pinned it; more than their refresh_s",
        at_least=0,
        at_most=3600,
    )
    expect: tuple[str, ...] = setting(
        (), "space=fingerprint of encoders: a version with vectors of others is refused; empty: any"
    )
    threads: int = setting(0, "searches at a time, one core each; 0: as many as cores", at_least=0, at_most=256)
    max_waiting: int = setting(256, "calls that may wait for a thread; more are refused at once", at_least=0)
    device: str = setting(
        "cpu", "cpu, cuda:<number>, or auto: the first GPU, where there is one and for what fits into its memory"
    )
    device_mib: int = setting(
        0,
        "of the GPU's memory, at most, for two versions while one follows the other; what needs more is refused; "
        "0: what is free",
        at_least=0,
    )
    live_dir: Path | None = setting(None, "where updates are kept, on a disk of this shard; none: it takes no updates")  # noqa: RUF009  # as above
    delta_rows: int = setting(
        4096,
        "changed products kept in memory, compared one by one with each query; half as many are compacted, beyond it "
        "updates are refused",
        at_least=2,
        at_most=1 << 20,
    )
    max_changes: int = setting(
        1_000_000, "products changed since the version was built; beyond it updates are refused", at_least=1
    )
    max_updates_waiting: int = setting(1024, "updates that may wait for a write; more are refused at once", at_least=1)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    settings = load(ShardSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_logging(settings.log_level)
    asyncio.run(run(settings))
    return 0


async def run(settings: ShardSettings) -> None:
    # BLAS would share numpy's matrix products among threads of its own, beside as many searches as there are cores, and
    # without the low priority of a thread that loads or compacts.
    threadpool_limits(1, "blas")
    location, stopping = location_of(settings), threading.Event()
    threads = settings.threads or len(os.sched_getaffinity(0))
    device = gpu.open_gpu(settings.device, limit_bytes=settings.device_mib << 20, max_waiting=threads * BATCH)
    loader = Loader(
        location=location,
        shard=ordinal(settings),
        hold=holder(location, settings, stopping.is_set),
        expected=expected_encoders(settings.expect),
        place=None if device is None else device.place,
    )
    pool = Pool(threads=threads, max_waiting=settings.max_waiting)
    served = Served(time.monotonic, settings.lease_s)
    succession = _succession(settings, served, loader)
    writer = Writer(
        served,
        max_waiting=settings.max_updates_waiting,
        take_over=succession.take_over if succession else None,
    )

    rollout = Rollout(
        served,
        wanted=lambda: settings.version or location.current(),
        load=succession.load if succession else loader,
        clock=time.monotonic,
        retry_s=settings.poll_s,
        admit=writer.admit,
        leave=succession.leave if succession else None,
    )
    service = IndexShard(pool, served, writer)
    try:
        async with lifecycle.background_task(rollout.watch(settings.poll_s)):
            await lifecycle.serve(settings, [service.handler()], services=[SERVICE.full_name], warm_up=rollout.start)
    finally:
        stopping.set()
        writer.close()
        rollout.close()
        pool.close()
        if device is not None:
            device.close()


def _succession(settings: ShardSettings, served: Served, load: Loader) -> Succession | None:
    """None: no updates are taken."""
    if settings.live_dir is None:
        return None
    bounds = Bounds(delta_rows=settings.delta_rows, changes=settings.max_changes)
    return Succession(served, settings.live_dir, load.shard, bounds, load)


def location_of(settings: ShardSettings) -> Directory | ObjectStore:
    if not settings.location:
        raise BadSettings("--location is not given: where is the index?")
    return open_location(settings.location, settings.storage_options)


def holder(location: Directory | ObjectStore, settings: ShardSettings, stopped: Callable[[], bool]) -> Hold:
    """How the files of a shard come to this machine. Raises BadSettings."""
    if isinstance(location, Directory):
        return location.pin
    if settings.cache_dir is None:
        raise BadSettings(f"--cache-dir is not given: where may files of {location} be kept?")
    return ShardFileCache(location, settings.cache_dir, settings.cache_bytes, stopped).pin


def ordinal(settings: ShardSettings) -> int:
    """Which shard to serve. Raises BadSettings."""
    if settings.shard >= 0:
        return settings.shard
    if (number := re.search(r"(?:^|-)(\d+)$", settings.pod_name)) is None:
        raise BadSettings(f"neither --shard nor a --pod-name that ends in a number is given: {settings.pod_name!r}")
    return int(number[1])


def expected_encoders(expect: Sequence[str]) -> dict[str, str]:
    """By space. Raises BadSettings."""
    pairs = [pair.partition("=") for pair in expect]
    for space, _, fingerprint in pairs:
        if space not in VECTOR_SPACES or not fingerprint:
            raise BadSettings(
                f"--expect {','.join(expect)}: not space=fingerprint with a space of {', '.join(VECTOR_SPACES)}"
            )
    return {space: fingerprint for space, _, fingerprint in pairs}
