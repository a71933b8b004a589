"""Apply the updates of a shard: requests that arrive during a write are written together next. Does file I/O.

Writes have a thread of their own, as compactions do, so that neither takes one from searches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from time import monotonic

from index.live.live_shard import LiveShard
from index.live.migration_loss import MigrationLoss
from index.live.replication import apply_to_all
from index.serving import metrics
from index.serving.compactor import Compactor
from index.serving.loss_reporter import LossReporter
from index.serving.pacer import Pacer
from index.serving.shard_version import ShardVersion
from index.serving.threads import run_in_thread
from index.serving.versions import ShardHandle, ShardVersions
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.v1.index_pb2 import ApplyRequest, ApplyResponse, Update, UpdateResult

MAX_UPDATES = 1024  # In one request, and in one write of several.
# Updates applied, logged and published together, in some 15 ms, in which searches get the interpreter's lock late.
_PART = 128
_SHARE = 0.5  # Of the time, while ordinary searches run.


class Writer:
    """Applies updates to every loaded version of a shard; for one event loop."""

    def __init__(
        self,
        served: ShardVersions,
        *,
        max_waiting: int,
        finish_migration: Callable[[ShardVersion], None] | None = None,
        is_busy: Callable[[], bool] = lambda: False,
    ) -> None:
        """finish_migration: brings a version the latest changes of the one that it follows.

        is_busy: whether ordinary searches run, for which long writes make room.
        """
        self._served = served
        self._finish_migration = finish_migration
        self._pacer = Pacer(_SHARE, is_busy)
        self._write_lock = asyncio.Lock()
        self._thread = ThreadPoolExecutor(1, "write")
        self._compactor = Compactor(served)
        self._losses = LossReporter()
        self._batches: Coalescer[ApplyRequest, ApplyResponse] = Coalescer(
            self._write,
            max_in_flight=1,
            max_batch=MAX_UPDATES,
            max_waiting=max_waiting,
            size=lambda request: len(request.updates),
        )

    async def apply(self, request: ApplyRequest, deadline: Deadline) -> ApplyResponse:
        """Return when the updates are synced to disk and every later call sees them.

        Raises Overloaded, DeadlineExceeded (the write may still happen), FailedPrecondition where updates are off.
        """
        if len(request.updates) > MAX_UPDATES:
            raise InvalidRequest(
                "updates", f"the request has {len(request.updates)} updates, at most {MAX_UPDATES} are allowed"
            )
        return await self._batches(request, deadline)

    def close(self) -> None:
        """Return when running writes and compactions have ended."""
        self._thread.shutdown(wait=True)
        self._compactor.close()

    async def admit(self, handle: ShardHandle) -> None:
        """Finish the migration to a version and add it to those served, with no write between the two.

        Raises what `finish_migration` does; the version is released then.
        """
        async with self._write_lock:
            try:
                if self._finish_migration is not None:
                    await run_in_thread(self._thread, partial(self._finish_migration, handle.loaded))
            except BaseException:
                handle.release()
                raise
            self._served.add(handle)
            self._losses.reset()

    async def _write(self, requests: list[ApplyRequest]) -> Sequence[ApplyResponse | LookalikeError]:
        """Write the requests for each version together; returns the responses in the order of the requests."""
        responses: dict[int, ApplyResponse | LookalikeError] = {}
        for version in dict.fromkeys(request.version for request in requests):
            positions = [i for i, request in enumerate(requests) if request.version == version]
            version_responses: Sequence[ApplyResponse | LookalikeError]
            try:
                version_responses = await self._write_version(version, [requests[i] for i in positions])
            except LookalikeError as error:
                version_responses = [error] * len(positions)
            responses.update(zip(positions, version_responses, strict=True))
        return [responses[i] for i in range(len(requests))]

    async def _write_version(self, version: str, requests: Sequence[ApplyRequest]) -> Sequence[ApplyResponse]:
        """Write the requests that name one version, to all loaded versions."""
        updates = [update for request in requests for update in request.updates]
        async with self._write_lock, AsyncExitStack() as leases:
            shard = leases.enter_context(self._served.lease(version))
            live = _require_live(shard)
            others = [leases.enter_context(self._served.lease(name)) for name in self._served.uses() if name != version]
            replicas = [other.live for other in others if other.live is not None]
            with metrics.WRITE_SECONDS.time():
                outcomes, loss = await run_in_thread(self._thread, partial(self._apply, live, replicas, updates))
            metrics.WRITE_UPDATES.observe(len(updates))
            metrics.count_outcomes(outcomes)
            metrics.set_live(shard.shard, live)
            self._losses.report(loss, version)
            self._compactor.start_if_due((live, *replicas))
            remaining = iter(outcomes)
            return [
                ApplyResponse(results=[next(remaining) for _ in request.updates], sequence=live.sequence)
                for request in requests
            ]

    def _apply(
        self, live: LiveShard, replicas: Sequence[LiveShard], updates: Sequence[Update]
    ) -> tuple[list[UpdateResult], MigrationLoss]:
        """Apply in parts, with a pause after each while searches run."""
        outcomes, losses = list[UpdateResult](), list[MigrationLoss]()
        for start in range(0, len(updates), _PART):
            began_s = monotonic()
            part, loss = apply_to_all(live, replicas, updates[start : start + _PART])
            outcomes += part
            losses.append(loss)
            full = next((each for each in part if each.outcome == UpdateResult.FULL), None)
            if full is not None:  # What follows waits, too: it may be of the same products.
                outcomes += [full] * (len(updates) - len(outcomes))
                break
            if start + _PART < len(updates):
                self._pacer.pause(monotonic() - began_s)
        return outcomes, MigrationLoss(
            sum(loss.changes for loss in losses), frozenset().union(*(loss.reasons for loss in losses))
        )


def _require_live(shard: ShardVersion) -> LiveShard:
    if shard.live is None:
        raise FailedPrecondition("this shard takes no updates: it was started without --live-dir")
    return shard.live
