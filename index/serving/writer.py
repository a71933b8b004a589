"""Updates of a shard: those that come while others are being written go together next; compaction beside it.

Writes have a thread of their own and compaction another, so that neither takes one from searches.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from typing import TypeVar

from prometheus_client import Counter, Gauge, Histogram

from index.live.carrying import Lost, apply_to_all
from index.live.live import Live
from index.serving.loaded import LoadedShard
from index.serving.pool import yield_to_others
from index.serving.rollout import DOCUMENTS
from index.serving.served import Loaded, Served
from index.serving.succession import LOST
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.telemetry import SECONDS_BUCKETS
from lookalike.spaces import space_name
from lookalike.v1.index_pb2 import ApplyRequest, ApplyResponse, UpdateResult

log = logging.getLogger(__name__)
Result = TypeVar("Result")

MAX_UPDATES = 256  # In one request, and in one write of several.
RETRY_S = 5.0  # After a compaction that failed, not with every update.

UPDATES = Counter("lookalike_shard_updates", "Updates judged.", ["outcome"])  # applied | stale | invalid | full
WRITE_UPDATES = Histogram("lookalike_shard_write_updates", "Updates in one write.", buckets=(1, 4, 16, 64, 256))
WRITE_SECONDS = Histogram(
    "lookalike_shard_write_seconds", "Time to judge, log and show what is written together.", buckets=SECONDS_BUCKETS
)
COMPACTION_SECONDS = Histogram(
    "lookalike_shard_compaction_seconds", "Time of a compaction.", buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)
)
COMPACTION_FAILURES = Counter("lookalike_shard_compaction_failures", "Compactions that failed: the disk is full?")
SEQUENCE = Gauge("lookalike_shard_sequence", "Updates applied since the version was built.")
ROWS = Gauge("lookalike_shard_delta_rows", "Products in memory and in the log until the next compaction.")
COMPACTED = Gauge("lookalike_shard_compacted", "Products in the compacted segment.")
DELETED = Gauge("lookalike_shard_deleted", "Products of the version as it was built, removed or superseded.")
REMOVED = Gauge("lookalike_shard_removed", "Removals that are remembered.")
LOG_BYTES = Gauge("lookalike_shard_log_bytes", "Size of the write-ahead log.")


class Writer:
    """For one event loop."""

    def __init__(
        self, served: Served, *, max_waiting: int, take_over: Callable[[LoadedShard], None] | None = None
    ) -> None:
        """take_over: brings a version the changes of the one that it follows."""
        self._served = served
        self._take_over = take_over
        self._changing = asyncio.Lock()
        self._writes = ThreadPoolExecutor(1, "write")
        self._compactions = ThreadPoolExecutor(1, "compact", initializer=yield_to_others)
        self._compacting: asyncio.Task[None] | None = None
        self._told: frozenset[str] = frozenset()  # What is lost between the versions that are loaded.
        self._groups: Coalescer[ApplyRequest, ApplyResponse] = Coalescer(
            self._write,
            max_in_flight=1,
            max_batch=MAX_UPDATES,
            max_waiting=max_waiting,
            size=lambda request: len(request.updates),
        )

    async def apply(self, request: ApplyRequest, deadline: Deadline) -> ApplyResponse:
        """Returns when its updates are on the disk and every later call sees them.

        Raises Overloaded, DeadlineExceeded (the write may still happen), FailedPrecondition where updates are off.
        """
        if len(request.updates) > MAX_UPDATES:
            raise InvalidRequest("updates", f"{len(request.updates)} updates, at most {MAX_UPDATES} may be")
        return await self._groups(request, deadline)

    def close(self) -> None:
        """Returns when what is under way has ended."""
        self._writes.shutdown(wait=True)
        self._compactions.shutdown(wait=True)

    async def admit(self, loaded: Loaded) -> None:
        """Add a version to what is served. No write is between what it takes over and its first own one.

        Raises what taking over does; the version is released then.
        """
        async with self._changing:
            try:
                if self._take_over is not None:
                    await _aside(self._writes, partial(self._take_over, loaded.shard))
            except BaseException:
                loaded.release()
                raise
            self._served.add(loaded)
            self._told = frozenset()

    async def _write(self, requests: list[ApplyRequest]) -> Sequence[ApplyResponse | LookalikeError]:
        """Of each version together; the answers in the order of the requests."""
        answers: dict[int, ApplyResponse | LookalikeError] = {}
        for version in dict.fromkeys(request.version for request in requests):
            at = [i for i, request in enumerate(requests) if request.version == version]
            try:
                written: Sequence[ApplyResponse | LookalikeError]
                written = await self._written(version, [requests[i] for i in at])
            except LookalikeError as error:
                written = [error] * len(at)
            answers.update(zip(at, written, strict=True))
        return [answers[i] for i in range(len(requests))]

    async def _written(self, version: str, requests: Sequence[ApplyRequest]) -> Sequence[ApplyResponse]:
        updates = [update for request in requests for update in request.updates]
        async with self._changing, AsyncExitStack() as leases:
            live = _updatable(leases.enter_context(self._served.lease(version)))
            others = [leases.enter_context(self._served.lease(name)) for name in self._served.uses() if name != version]
            following = [shard.live for shard in others if shard.live is not None]
            with WRITE_SECONDS.time():
                outcomes, lost = await _aside(self._writes, partial(apply_to_all, live, following, updates))
            WRITE_UPDATES.observe(len(updates))
            _tell(live, outcomes)
            self._tell_lost(lost, version)
            for each in (live, *following):
                if each.compaction_due and self._compacting is None:
                    self._compacting = asyncio.create_task(self._compact(each.version))
            each_outcome = iter(outcomes)
            return [
                ApplyResponse(results=[next(each_outcome) for _ in request.updates], sequence=live.sequence)
                for request in requests
            ]

    def _tell_lost(self, lost: Lost, version: str) -> None:
        """The log has each reason once."""
        LOST.inc(lost.changes)
        for reason in sorted(lost.reasons - self._told):
            log.error("changes of version %s are missing in the one loaded beside it: %s", version, reason)
        self._told |= lost.reasons

    async def _compact(self, version: str) -> None:
        try:
            with self._served.lease(version) as shard:
                while shard.live is not None and shard.live.compaction_due:
                    with COMPACTION_SECONDS.time():
                        await _aside(self._compactions, shard.live.compact)
                    _tell(shard.live, ())
        except Exception:  # A full disk, most likely. Nothing is lost by it; it is tried again with an update.
            log.exception("compaction failed")
            COMPACTION_FAILURES.inc()
            await asyncio.sleep(RETRY_S)
        finally:
            self._compacting = None


def _updatable(shard: LoadedShard) -> Live:
    if shard.live is None:
        raise FailedPrecondition("this shard takes no updates: it was started without --live-dir")
    return shard.live


async def _aside(threads: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(threads, work)


def _tell(live: Live, outcomes: Sequence[UpdateResult]) -> None:
    for outcome in outcomes:
        UPDATES.labels(UpdateResult.Outcome.Name(outcome.outcome).lower()).inc()
    state = live.state()
    SEQUENCE.set(live.sequence)
    ROWS.set(state.delta_rows)
    COMPACTED.set(state.segment_rows)
    DELETED.set(state.superseded_rows)
    REMOVED.set(state.tombstones)
    LOG_BYTES.set(state.log_bytes)
    for number in live.encoders:
        DOCUMENTS.labels(space_name(number)).set(live.view.vectors(number))
