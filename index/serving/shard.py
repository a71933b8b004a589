"""The command `lookalike serve shard`, and the composition of a shard in any process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from threadpoolctl import threadpool_limits

from index.backends import gpu
from index.backends.faiss_support import use_threads
from index.live.live_shard import LiveLimits
from index.search.space import BATCH
from index.serving.change_migration import ChangeMigration
from index.serving.loader import Loader
from index.serving.peer_progress import CatchingUp
from index.serving.peers import Peers
from index.serving.service import SERVICE, IndexShard
from index.serving.settings import (
    NO_PEERS,
    IndexSettings,
    PeerSettings,
    ShardSettings,
    check_peers,
    parse_expected_encoders,
    shard_number,
)
from index.serving.shard_version import ShardVersion
from index.serving.slots import Slots
from index.serving.versions import ShardRolloutMetrics, ShardVersions, shard_versions
from index.serving.writer import Writer
from lookalike.releases.rollout import Rollout
from lookalike.releases.settings import file_pinner, open_index_location
from lookalike.runtime import lifecycle, security, telemetry
from lookalike.runtime.settings import load
from lookalike.runtime.slow_log import slow_log

DESCRIPTION = """One shard of the index, for gateways.

It verifies the checksums of its files, maps them, searches with real vectors to warm up, and only then is ready. When
CURRENT names another version, that one is loaded and served beside the old one, which is dropped when no gateway and no
request uses it any more. If a new version cannot be loaded, the reason is logged and the old one serves on.

  lookalike serve shard --location index --shard 0 --port 7000
  lookalike serve shard --location index --pod-name lookalike-shard-2     (shard 2, as in a StatefulSet)
  lookalike serve shard --location index --shard 0 --live-dir changes --peers 10.0.0.1:7000,10.0.0.2:7000

The peers are the replicas of a shard: each takes from the others the changes that it lacks."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    settings = load(ShardSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_process_logging(settings)
    security.use_outgoing_tls(settings)
    lifecycle.run(run(settings))
    return 0


async def run(settings: ShardSettings) -> None:
    check_peers(settings)
    with open_shards(settings, [shard_number(settings)], peers=settings.peer_settings) as (shard,):
        async with running(shard, settings.poll_s):
            await lifecycle.serve(
                settings,
                [shard.service.handler()],
                services=[SERVICE.full_name],
                warm_up=shard.rollout.start,
                freeze=True,
            )


@dataclass(frozen=True, slots=True)
class RunningShard:
    """A shard of which no version is loaded until `rollout` has started."""

    service: IndexShard
    rollout: Rollout[ShardVersion]
    peers: Peers | None  # None: it has no other replicas.


@asynccontextmanager
async def running(shard: RunningShard, poll_s: float) -> AsyncIterator[None]:
    """What a shard does beside its calls, once it has started: it follows CURRENT, and its peers."""
    async with AsyncExitStack() as background:
        await background.enter_async_context(lifecycle.background_task(shard.rollout.watch(poll_s)))
        if shard.peers is not None:
            following = shard.peers.run(shard.rollout.until_started)
            await background.enter_async_context(lifecycle.background_task(following))
        yield


@contextmanager
def open_shards(
    settings: IndexSettings,
    numbers: Sequence[int],
    *,
    max_shards: int | None = None,
    peers: PeerSettings = NO_PEERS,
) -> Iterator[list[RunningShard]]:
    """These shards of an index, which share the search threads and the GPU; for one event loop.

    max_shards: of a version; one with more is refused. None: any number.
    """
    # BLAS would run numpy's matrix products on threads of its own, beside as many searches as there are cores, and
    # without the low priority of the threads that load and compact.
    threadpool_limits(1, "blas")
    location, stopping = open_index_location(settings), threading.Event()
    pin_files = file_pinner(location, settings, stopping.is_set)
    threads = settings.threads or len(os.sched_getaffinity(0))
    with ExitStack() as on_exit:
        device = gpu.open_gpu(settings.device, limit_bytes=settings.device_mib << 20, max_waiting=threads * BATCH)
        if device is not None:
            on_exit.callback(device.close)
        slots = Slots(
            threads=threads,
            max_waiting=settings.max_waiting,
            deep_threads=settings.deep_threads or max(1, threads // 4),
            max_costly=settings.max_costly,
        )
        on_exit.callback(slots.close)
        shards = []
        for number in numbers:
            loader = Loader(
                location=location,
                shard=number,
                max_shards=max_shards,
                pin_files=pin_files,
                expected_encoders=parse_expected_encoders(settings.expect),
                placement=None if device is None else device.place,
            )
            shards.append(on_exit.enter_context(_open_shard(settings, loader, slots, peers)))
        on_exit.callback(stopping.set)
        yield shards


@contextmanager
def _open_shard(
    settings: IndexSettings, loader: Loader, slots: Slots, peer_settings: PeerSettings
) -> Iterator[RunningShard]:
    served = shard_versions(time.monotonic, settings.lease_s)
    migration = _change_migration(settings, served, loader)
    progress = CatchingUp(time.monotonic(), peer_settings.wait_s) if peer_settings.addresses else None
    writer = Writer(
        served,
        max_waiting=settings.max_updates_waiting,
        migration=migration,
        is_busy=slots.ordinary.is_busy,
        is_catching_up=lambda: progress is not None and progress.is_behind(time.monotonic(), time.process_time()),
    )
    peers = Peers(peer_settings.addresses, loader.shard, served, writer, progress) if progress else None
    rollout = Rollout(
        served,
        read_target=lambda: settings.version or loader.location.current(),
        read_canary=None if settings.version else loader.location.canary,
        load=migration.load if migration else loader,
        clock=time.monotonic,
        retry_s=settings.poll_s,
        metrics=ShardRolloutMetrics(loader.shard),
        begin_thread=partial(use_threads, 1),  # faiss starts no further threads beside searches.
        admit=writer.admit,
        before_drop=migration.before_drop if migration else None,
    )
    service = IndexShard(slots, served, writer, migration, peers=peers, slow=slow_log(settings.slow_query_s))
    try:
        yield RunningShard(service, rollout, peers)
    finally:
        writer.close()
        rollout.close()
        for name in served.uses():  # The versions themselves are freed by the end of the process.
            with served.lease(name) as version:
                if version.live is not None:
                    version.live.close()
        if migration is not None:
            migration.close()


def _change_migration(settings: IndexSettings, served: ShardVersions, loader: Loader) -> ChangeMigration | None:
    """None: the shard takes no updates."""
    if settings.live_dir is None:
        return None
    limits = LiveLimits(delta_rows=settings.delta_rows, changes=settings.max_changes)
    return ChangeMigration(
        served, settings.live_dir, loader.shard, limits, load_base=loader, list_versions=loader.location.list_versions
    )
