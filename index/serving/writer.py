"""Apply the updates of a shard: requests that arrive during a write are written together next. Does file I/O.

Writes have a thread of their own, as compactions do, so that neither takes one from searches.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from functools import partial
from time import monotonic

from index.live.live_shard import LiveShard
from index.live.migration_loss import MigrationLoss, handover_loss
from index.live.replication import apply_to_all
from index.live.updates import changes_in_part, updated_id
from index.serving import metrics
from index.serving.change_migration import ChangeMigration
from index.serving.compactor import Compactor
from index.serving.loss_reporter import LossReporter
from index.serving.pacer import Pacer
from index.serving.shard_version import ShardVersion
from index.serving.threads import run_in_thread
from index.serving.versions import ShardHandle, ShardVersions
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError, Unavailable
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.v1.index_pb2 import ApplyRequest, ApplyResponse, ListedChange, Update, UpdateResult

MAX_UPDATES = 1024  # In one request, and in one write of several.
# Updates applied, logged and published together, in some 15 ms, in which searches get the interpreter's lock late.
_PART = 128
_NO_UPDATES = "this shard takes no updates: it was started without --live-dir"
_SHARE = 0.5  # Of the time, while ordinary searches run.


class Writer:
    """Applies updates to every loaded version of a shard; for one event loop."""

    def __init__(
        self,
        served: ShardVersions,
        *,
        max_waiting: int,
        migration: ChangeMigration | None = None,
        clock: Callable[[], float] = monotonic,
        is_busy: Callable[[], bool] = lambda: False,
        is_catching_up: Callable[[], bool] = lambda: False,
    ) -> None:
        """migration: brings a version the latest changes of the one that it follows; None: there are no updates.

        is_busy: whether ordinary searches run, for which long writes make room.
        is_catching_up: whether this replica may lack changes that a peer has.
        """
        self._served = served
        self._migration = migration
        self._clock = clock
        self._is_catching_up = is_catching_up
        self._sealed_until_s: dict[str, float] = {}  # By version.
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
            name="write changes",
        )

    async def apply(self, request: ApplyRequest, deadline: Deadline) -> ApplyResponse:
        """Return when the updates are synced to disk and every later call sees them.

        Raises Overloaded, DeadlineExceeded (the write may still happen), FailedPrecondition where updates are off.
        Unavailable for a change in part while this replica is catching up: made of a product without its last change,
        it would have the revision of the right one, and stay. It comes from a peer, which made it of the whole.
        """
        if len(request.updates) > MAX_UPDATES:
            raise InvalidRequest(
                "updates", f"the request has {len(request.updates)} updates, at most {MAX_UPDATES} are allowed"
            )
        if not request.handover and self._is_catching_up() and any(map(changes_in_part, request.updates)):
            raise Unavailable("this replica is catching up with its peers: it makes no change in part")
        return await self._batches(request, deadline)

    async def pull(self, version: str, changes: Sequence[ListedChange]) -> Sequence[UpdateResult]:
        """Apply changes that a peer has to this version alone, whether it takes updates or not.

        Raises Unavailable and FailedPrecondition where the version is not loaded, Overloaded.
        """
        updates = [each.update for each in changes]
        async with self._write_lock:
            with self._served.lease(version) as shard:
                outcomes = await self._write_updates(shard, (), updates)
                reduced = {updated_id(each.update) for each in changes if each.reduced}
                _require_live(shard).note_loss(handover_loss(updates, outcomes, reduced))
        return outcomes

    def close(self) -> None:
        """Return when running writes and compactions have ended."""
        self._thread.shutdown(wait=True)
        self._compactor.close()

    async def admit(self, handle: ShardHandle) -> None:
        """Finish the migration to a version and add it to those served, with no write between the two.

        Raises what `ChangeMigration.finish` does; the version is released then.
        """
        async with self._write_lock:
            try:
                if self._migration is not None:
                    await run_in_thread(self._thread, partial(self._migration.finish, handle.loaded))
            except BaseException:
                handle.release()
                raise
            self._served.add(handle)
            self._losses.reset()

    async def _write(self, requests: list[ApplyRequest]) -> Sequence[ApplyResponse | LookalikeError]:
        """Write the requests for each version together; returns the responses in the order of the requests."""
        responses: dict[int, ApplyResponse | LookalikeError] = {}
        for version, handover in dict.fromkeys((request.version, request.handover) for request in requests):
            positions = [i for i, each in enumerate(requests) if (each.version, each.handover) == (version, handover)]
            version_responses: Sequence[ApplyResponse | LookalikeError]
            try:
                version_responses = await self._write_version(version, handover, [requests[i] for i in positions])
            except LookalikeError as error:
                version_responses = [error] * len(positions)
            responses.update(zip(positions, version_responses, strict=True))
        return [responses[i] for i in range(len(requests))]

    async def seal(self, version: str, seconds: float) -> int:
        """Take no updates of a version for so long. Returns its sequence number.

        Every update that was acknowledged before is in it. Raises FailedPrecondition where there are no updates.
        """
        if self._migration is None:
            raise FailedPrecondition(_NO_UPDATES)
        async with self._write_lock:
            with self._migration.changes_of(version) as live:
                self._sealed_until_s[version] = self._clock() + seconds
                return live.sequence

    async def finish_handover(self, version: str, lost: Iterable[str]) -> None:
        """Take updates of a version, which has every change of the one before. Raises FailedPrecondition, Unavailable.

        lost: why changes of products that nobody knows are not in it.
        """
        if self._migration is None:
            raise FailedPrecondition(_NO_UPDATES)
        async with self._write_lock:
            await run_in_thread(self._thread, partial(self._migration.finish_handover, version))
            self._sealed_until_s.clear()
            if version in self._served.uses():
                with self._served.lease(version) as shard:
                    if shard.live is not None:
                        shard.live.note_losses(lost)

    def _takes_updates(self, shard: ShardVersion) -> bool:
        """Whether it is this version that takes updates, and no other one that has other owners."""
        sealed = self._sealed_until_s.get(shard.manifest.version, 0) > self._clock()
        return not sealed and (self._migration is None or self._migration.awaited(shard) is None)

    async def _write_version(
        self, version: str, handover: bool, requests: Sequence[ApplyRequest]
    ) -> Sequence[ApplyResponse]:
        """Write the requests that name one version, to all loaded versions that have as many shards."""
        updates = [update for request in requests for update in request.updates]
        async with self._write_lock, AsyncExitStack() as leases:
            shard = leases.enter_context(self._served.lease(version))
            live = _require_live(shard)
            if not handover and not self._takes_updates(shard):
                error = f"version {version} takes no updates: another one does"
                moved = UpdateResult(outcome=UpdateResult.MOVED, error=error)
                return [
                    ApplyResponse(results=[moved] * len(request.updates), sequence=live.sequence)
                    for request in requests
                ]
            others = [leases.enter_context(self._served.lease(name)) for name in self._served.uses() if name != version]
            replicas = [
                other.live
                for other in others
                if other.live is not None and other.manifest.shards == shard.manifest.shards
            ]
            outcomes = await self._write_updates(shard, replicas, updates)
            if handover:
                reduced = {updated_id(request.updates[i]) for request in requests for i in request.reduced}
                live.note_loss(handover_loss(updates, outcomes, reduced))
            remaining = iter(outcomes)
            return [
                ApplyResponse(results=[next(remaining) for _ in request.updates], sequence=live.sequence)
                for request in requests
            ]

    async def _write_updates(
        self, shard: ShardVersion, others: Sequence[LiveShard], updates: Sequence[Update]
    ) -> list[UpdateResult]:
        """Apply to a version and others; call it with the write lock held."""
        live = _require_live(shard)
        with metrics.WRITE_SECONDS.time():
            outcomes, loss = await run_in_thread(self._thread, partial(self._apply, live, others, updates))
        metrics.WRITE_UPDATES.observe(len(updates))
        metrics.count_outcomes(outcomes)
        metrics.set_live(shard.shard, live)
        self._losses.report(loss, live.version)
        self._compactor.start_if_due((live, *others))
        return outcomes

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
        return outcomes, MigrationLoss({product: why for loss in losses for product, why in loss.by_product.items()})


def _require_live(shard: ShardVersion) -> LiveShard:
    if shard.live is None:
        raise FailedPrecondition(_NO_UPDATES)
    return shard.live
