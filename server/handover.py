"""Hands the changes of a version over to one of another number of shards. Network I/O.

There products have other owners. All changes are copied while both versions serve, and again what changed meanwhile,
until that is little. Then the old version is sealed, for a moment in which writes wait, the rest is copied, and the new
version takes updates. A change keeps
its revision, so each step may be done twice, by several gateways at once, and again after a failure: nothing that was
acknowledged is lost.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from encoders.clients import EncoderReplica
from lookalike.errors import FailedPrecondition, LookalikeError, Overloaded, Unavailable
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.partition import shard_of
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import Update, UpdateResult
from lookalike.v1.types_pb2 import Space, SpaceEncoder
from server.encoder_readiness import EncoderNames, unready_encoders
from server.shard_transport import ShardTransport

log = logging.getLogger(__name__)

_SEAL_S = 10.0  # Of which half may pass until the new version takes updates; else all is done again.
_FEW = 20  # Changes that are copied in 0.02 s. At 100 a second, the third round has no more.
_ROUNDS = 8  # Of copying what changed during the round before, until it is few.
_TIMEOUT_S = 30.0
_FULL_WAIT_S, _MAX_FULL_WAIT_S = 0.2, 60.0  # A shard without room makes it by a compaction, which takes seconds.


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingHandover:
    """A version that all its shards serve, and which lacks the changes of another one."""

    version: str
    shards: int
    of: str
    of_shards: int
    encoders: Mapping[Space.ValueType, str]  # Of the version that takes the changes.


def pending_handover(
    responses: Sequence[index_pb2.DescribeResponse | None], encoders: Sequence[EncoderReplica] = ()
) -> PendingHandover | None:
    """The handover that is due, by what the shards say (None: the shard is unreachable); None: there is none.

    encoders: those in reach. None is due while requests would stay at the old version for their sake: writes would
    wait, since that takes none afterwards.
    """
    currents = {
        ordinal: response.versions[0]
        for ordinal, response in enumerate(responses)
        if response is not None and response.versions
    }
    for state in currents.values():
        states = [currents.get(ordinal) for ordinal in range(state.shards)]
        if any(each is None or each.version != state.version for each in states):
            continue
        awaited = [each.awaited for each in states if each is not None and each.HasField("awaited")]
        if awaited:
            ((of, _),) = Counter(each.version for each in awaited).most_common(1)
            of_shards = max(each.shards for each in awaited if each.version == of)
            of_encoders = _encoders_where_served(of, of_shards, responses)
            following = {each.space: each.encoder for each in state.spaces}
            if of_encoders is not None and unready_encoders(of_encoders, following, encoders):
                return None
            return PendingHandover(
                version=state.version,
                shards=state.shards,
                of=of,
                of_shards=of_shards,
                encoders=following,
            )
    return None


def _encoders_where_served(
    version: str, shards: int, responses: Sequence[index_pb2.DescribeResponse | None]
) -> EncoderNames | None:
    """The encoders of a version that every reachable one of its shards serves; None: it is not."""
    reachable = [response for response in responses[:shards] if response is not None]
    states = [state for response in reachable for state in response.versions if state.version == version]
    if not states or len(states) < len(reachable):
        return None
    return {each.space: each.encoder for each in states[0].spaces}


async def hand_over(shards: Sequence[ShardTransport], pending: PendingHandover) -> int:
    """Hand over all changes; returns how many were applied. shards: all that are configured, by ordinal.

    Raises LookalikeError where a shard does not answer: then the old version takes updates on, and it is to be done
    again.
    """
    if pending.of_shards > len(shards):
        raise Unavailable(f"version {pending.of} has {pending.of_shards} shards, {len(shards)} are configured")
    # Every replica has numbers of its own, and may have a change that another one lacks yet.
    sources, applied = _sources(shards, pending), 0
    unreadable = set[str]()  # Addresses of sources that cannot read their changes.
    known = [0] * len(sources)
    for _ in range(_ROUNDS):
        copies = [_copy(each, shards, pending, since, unreadable) for each, since in zip(sources, known, strict=True)]
        rounds = await run_concurrently(copies)
        known, listed = [sequence for sequence, _ in rounds], sum(count for _, count in rounds)
        applied += listed
        if listed <= _FEW:
            break
    sealed_s = monotonic()
    await run_concurrently(_seal(shard, pending.of) for shard in shards[: pending.of_shards])
    copies = [_copy(each, shards, pending, since, unreadable) for each, since in zip(sources, known, strict=True)]
    applied += sum(count for _, count in await run_concurrently(copies))
    if _sources(shards, pending) != sources:
        raise Unavailable("other replicas are in service than when the handover began: it is done again")
    if monotonic() - sealed_s > _SEAL_S / 2:
        raise Unavailable(f"what changed during the handover took {monotonic() - sealed_s:.1f} s: it is done again")
    is_lost = any(_is_unreadable(shard, unreadable) for shard in shards[: pending.of_shards])
    losses = [f"changes of version {pending.of} cannot be read"] if is_lost else []
    everyone = range(max(pending.shards, pending.of_shards))
    await run_concurrently(_finish(shards[each], pending, losses) for each in everyone)
    return applied


def _sources(shards: Sequence[ShardTransport], pending: PendingHandover) -> list[ShardTransport]:
    """The replicas that have changes of the old version. Raises Unavailable for a shard that has none in service."""
    replicas = [shard.sources() for shard in shards[: pending.of_shards]]
    if not all(replicas):
        raise Unavailable(f"a shard with changes of version {pending.of} has no replica in service")
    return [each for sources in replicas for each in sources]


async def _copy(
    source: ShardTransport,
    shards: Sequence[ShardTransport],
    pending: PendingHandover,
    known_sequence: int,
    unreadable: set[str],
) -> tuple[int, int]:
    """Apply the changes of a source after that number. Returns the number of the last one, and how many there were."""
    encoders = [SpaceEncoder(space=space, encoder=each) for space, each in pending.encoders.items()]
    request = index_pb2.ListChangesRequest(version=pending.of, known_sequence=known_sequence, encoders=encoders)
    sequence = count = 0
    try:
        async for page in source.list_changes(request, None):
            sequence = page.sequence
            count += len(page.changes)
            groups: dict[int, list[index_pb2.ListedChange]] = {}
            for change in page.changes:
                groups.setdefault(shard_of(_product_id(change.update), pending.shards), []).append(change)
            await run_concurrently(_apply(shards[owner], pending, group) for owner, group in groups.items())
    except FailedPrecondition as error:  # It has none: they are damaged, or the disk is another one.
        log.critical("version %s lacks changes of version %s: %s", pending.version, pending.of, error)
        unreadable.add(source.address)
    return sequence, count


def _is_unreadable(shard: ShardTransport, unreadable: Container[str]) -> bool:
    """Whether no replica of a shard can read its changes: of products that nobody knows."""
    return all(each.address in unreadable for each in shard.sources())


async def _apply(shard: ShardTransport, pending: PendingHandover, changes: Sequence[index_pb2.ListedChange]) -> None:
    waiting, give_up_s = [*changes], monotonic() + _MAX_FULL_WAIT_S
    while True:
        request = index_pb2.ApplyRequest(
            version=pending.version,
            updates=[each.update for each in waiting],
            handover=True,
            reduced=[i for i, each in enumerate(waiting) if each.reduced],
        )
        try:
            results = (await shard.apply(request, _TIMEOUT_S)).results
        except FailedPrecondition as error:  # The new version went away meanwhile: nothing is lost, it is done again.
            raise Unavailable(str(error)) from error
        waiting = [each for each, result in zip(waiting, results, strict=True) if result.outcome == UpdateResult.FULL]
        if not waiting:
            return
        if monotonic() > give_up_s:
            raise Overloaded(f"shard {shard.address} has no room for changes of version {pending.of}")
        await asyncio.sleep(_FULL_WAIT_S)


async def _seal(source: ShardTransport, version: str) -> None:
    try:
        await source.seal(index_pb2.SealRequest(version=version, seconds=_SEAL_S), _TIMEOUT_S)
    except FailedPrecondition as error:  # It has no such changes, as `_copy` has said.
        log.warning("%s", error)


async def _finish(shard: ShardTransport, pending: PendingHandover, losses: Sequence[str]) -> None:
    request = index_pb2.FinishHandoverRequest(version=pending.version, lost_reasons=losses)
    await shard.finish_handover(request, _TIMEOUT_S)


def _product_id(update: Update) -> str:
    match update.WhichOneof("what"):
        case "upsert":
            return update.upsert.product.id
        case "patch":
            return update.patch.product.id
    return update.remove


class HandoverRunner:
    """Runs the handover that is due, one at a time. For one event loop."""

    def __init__(self, shards: Sequence[ShardTransport]) -> None:
        self._shards = shards
        self._task: asyncio.Task[None] | None = None

    def start_if_due(
        self,
        responses: Sequence[index_pb2.DescribeResponse | None],
        encoders: Sequence[EncoderReplica],
        then: Callable[[], Awaitable[None]],
    ) -> None:
        """Start one in the background, unless one is running. then: called when it is done."""
        if self._task is not None and not self._task.done():
            return
        pending = pending_handover(responses, encoders)
        self._task = None if pending is None else asyncio.create_task(self._run(pending, then))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self, pending: PendingHandover, then: Callable[[], Awaitable[None]]) -> None:
        began_s = monotonic()
        try:
            applied = await hand_over(self._shards, pending)
        except LookalikeError as error:
            log.warning("version %s waits for the changes of version %s: %s", pending.version, pending.of, error)
        except Exception:  # A bug: the next poll starts it again, and it is not to fail unseen.
            log.exception("version %s: the handover of changes of version %s failed", pending.version, pending.of)
        else:
            log.info(
                "version %s (%d shards) has taken over %d changes of version %s (%d shards) in %.1f s",
                *(pending.version, pending.shards, applied, pending.of, pending.of_shards, monotonic() - began_s),
            )
            await then()
