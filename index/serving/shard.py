"""The command `lookalike serve shard`: settings of a shard process, and its composition."""

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
from index.live.live_shard import LiveLimits
from index.search.space import BATCH
from index.serving.change_migration import ChangeMigration
from index.serving.loader import Loader, PinFiles
from index.serving.rollout import Rollout
from index.serving.served_versions import ServedVersions
from index.serving.service import SERVICE, IndexShard
from index.serving.slots import Slots
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

It verifies the checksums of its files, maps them, searches with real vectors to warm up, and only then is ready. When
CURRENT names another version, that one is loaded and served beside the old one, which is dropped when no gateway and no
request uses it any more. If a new version cannot be loaded, the reason is logged and the old one serves on.

  lookalike serve shard --location index --shard 0 --port 7000
  lookalike serve shard --location index --pod-name lookalike-shard-2     (shard 2, as in a StatefulSet)"""


@dataclass(frozen=True, kw_only=True)
class ShardSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_SHARD_"

    location: str = setting("", "the index, as `index build` or `update` wrote it: a directory or a URL (s3://…)")
    storage_options: str = setting(
        "",
        "options of the URL's fsspec filesystem as a JSON object, added to what its library finds itself",
        secret=True,
    )
    cache_dir: Path | None = setting(None, "where the files of an index at a URL are cached; processes may share it")  # noqa: RUF009  # `setting` makes a field, not a value
    cache_bytes: int = setting(
        32 << 30,
        "limit of the cache; must hold at least two versions; the least recently used files are removed first",
        at_least=0,
    )
    shard: int = setting(-1, "number of this shard, from 0; -1: the number at the end of pod-name", at_least=-1)
    pod_name: str = setting("", "name of the StatefulSet's pod; its last number is the shard's when shard is -1")
    version: str = setting("", "the version to serve, always; empty: the one that LOCATION/CURRENT names, following it")
    poll_s: float = setting(5.0, "interval between reads of CURRENT", at_least=0.05, at_most=3600)
    lease_s: float = setting(
        30.0,
        "how long a version is kept after a gateway pinned it; must be more than the gateways' refresh_s",
        at_least=0,
        at_most=3600,
    )
    expect: tuple[str, ...] = setting(
        (), "expected encoders as space=fingerprint; a version with vectors of others is refused; empty: any"
    )
    threads: int = setting(
        0, "number of parallel searches, one core each; 0: as many as cores", at_least=0, at_most=256
    )
    max_waiting: int = setting(256, "calls that may wait for a thread; further ones are refused at once", at_least=0)
    deep_threads: int = setting(
        0,
        "threads of low priority for searches that are much more work than others, exact ones apart; "
        "0: a quarter of `threads`",
        at_least=0,
        at_most=256,
    )
    max_costly: int = setting(
        64,
        "such searches in progress, and exact ones in progress; further ones are refused at once, as are those that "
        "would be late",
        at_least=1,
        at_most=1024,
    )
    device: str = setting(
        "cpu", "cpu, cuda:<number>, or auto: the first GPU if there is one, for the indexes that fit into its memory"
    )
    device_mib: int = setting(
        0,
        "limit of GPU memory, for two versions during a rollout; a version that needs more is refused; "
        "0: all that is free",
        at_least=0,
    )
    live_dir: Path | None = setting(None, "directory for updates, on a disk of this shard; empty: it takes no updates")  # noqa: RUF009  # as above
    delta_rows: int = setting(
        4096,
        "changed products kept in memory, which each query is compared with one by one; they are compacted at half as "
        "many; beyond it updates are refused",
        at_least=2,
        at_most=1 << 20,
    )
    max_changes: int = setting(
        1_000_000, "limit of products changed since the version was built; beyond it updates are refused", at_least=1
    )
    max_updates_waiting: int = setting(
        1024, "updates that may wait for a write; further ones are refused at once", at_least=1
    )


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    settings = load(ShardSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_logging(settings.log_level)
    asyncio.run(run(settings))
    return 0


async def run(settings: ShardSettings) -> None:
    # BLAS would run numpy's matrix products on threads of its own, beside as many searches as there are cores, and
    # without the low priority of the threads that load and compact.
    threadpool_limits(1, "blas")
    location, stopping = open_index_location(settings), threading.Event()
    threads = settings.threads or len(os.sched_getaffinity(0))
    device = gpu.open_gpu(settings.device, limit_bytes=settings.device_mib << 20, max_waiting=threads * BATCH)
    loader = Loader(
        location=location,
        shard=shard_number(settings),
        pin_files=file_pinner(location, settings, stopping.is_set),
        expected_encoders=parse_expected_encoders(settings.expect),
        placement=None if device is None else device.place,
    )
    slots = Slots(
        threads=threads,
        max_waiting=settings.max_waiting,
        deep_threads=settings.deep_threads or max(1, threads // 4),
        max_costly=settings.max_costly,
    )
    served = ServedVersions(time.monotonic, settings.lease_s)
    migration = _change_migration(settings, served, loader)
    writer = Writer(
        served,
        max_waiting=settings.max_updates_waiting,
        finish_migration=migration.finish if migration else None,
    )

    rollout = Rollout(
        served,
        read_target=lambda: settings.version or location.current(),
        load=migration.load if migration else loader,
        clock=time.monotonic,
        retry_s=settings.poll_s,
        admit=writer.admit,
        before_drop=migration.before_drop if migration else None,
    )
    service = IndexShard(slots, served, writer)
    try:
        async with lifecycle.background_task(rollout.watch(settings.poll_s)):
            await lifecycle.serve(settings, [service.handler()], services=[SERVICE.full_name], warm_up=rollout.start)
    finally:
        stopping.set()
        writer.close()
        rollout.close()
        slots.close()
        if device is not None:
            device.close()


def _change_migration(settings: ShardSettings, served: ServedVersions, loader: Loader) -> ChangeMigration | None:
    """None: the shard takes no updates."""
    if settings.live_dir is None:
        return None
    limits = LiveLimits(delta_rows=settings.delta_rows, changes=settings.max_changes)
    return ChangeMigration(served, settings.live_dir, loader.shard, limits, loader)


def open_index_location(settings: ShardSettings) -> Directory | ObjectStore:
    if not settings.location:
        raise BadSettings("--location is missing: the directory or URL of the index")
    return open_location(settings.location, settings.storage_options)


def file_pinner(location: Directory | ObjectStore, settings: ShardSettings, stopped: Callable[[], bool]) -> PinFiles:
    """The function that fetches (if needed) and pins the files of a shard. Raises BadSettings."""
    if isinstance(location, Directory):
        return location.pin
    if settings.cache_dir is None:
        raise BadSettings(f"--cache-dir is missing: a directory to cache the files of {location} in")
    return ShardFileCache(location, settings.cache_dir, settings.cache_bytes, stopped).pin


def shard_number(settings: ShardSettings) -> int:
    """Which shard to serve. Raises BadSettings."""
    if settings.shard >= 0:
        return settings.shard
    if (number := re.search(r"(?:^|-)(\d+)$", settings.pod_name)) is None:
        raise BadSettings(
            f"no shard number: set --shard, or a --pod-name that ends in a number (it is {settings.pod_name!r})"
        )
    return int(number[1])


def parse_expected_encoders(expect: Sequence[str]) -> dict[str, str]:
    """The expected encoder fingerprint of each space. Raises BadSettings."""
    pairs = [pair.partition("=") for pair in expect]
    for space, _, fingerprint in pairs:
        if space not in VECTOR_SPACES or not fingerprint:
            raise BadSettings(
                f"--expect {','.join(expect)}: expected space=fingerprint, with a space of {', '.join(VECTOR_SPACES)}"
            )
    return {space: fingerprint for space, _, fingerprint in pairs}
