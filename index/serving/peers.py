"""The other replicas of a shard, from which this one takes the changes that it lacks. Network I/O (gRPC).

Gateways send every change to all replicas. One that was down, hung or unreachable, or whose gateway died between two
sends, lacks some. So each replica asks every peer, a few times a second, which products changed after the last number
that it knows, and fetches those of which the peer has a newer revision: the newest revision wins, as everywhere.

Each version is written alone (`Writer.pull`), with the changes of the peer's own copy of it (`pair_versions`), whose
vectors are of the same encoders; where two are loaded, both are pulled.

A handover to another number of shards is not disturbed. A sealed version takes what a peer acknowledged before the
seal, which is no new update; gateways read the changes from a replica in service, which had them. A version that awaits
a handover takes the changes that a peer was handed already, as it would from the gateway, with their revisions, and
awaits the handover on: only FinishHandover ends that.

Of equal revisions with other content, as concurrent patches in another order make them, each replica keeps its own:
nothing says which is right.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from time import monotonic, process_time
from typing import Any, TypeVar

import grpc
import grpc.aio

from index.live.live_shard import LiveShard
from index.serving import metrics
from index.serving.peer_progress import CatchingUp, End, Pair, Pull, ShardPart, pair_versions, peer_positions
from index.serving.threads import lower_thread_priority, run_in_thread
from index.serving.versions import ShardVersions
from index.serving.writer import Writer
from lookalike.channels import aio_channel
from lookalike.errors import FailedPrecondition, LookalikeError, Overloaded, Unavailable
from lookalike.runtime.call import outgoing
from lookalike.runtime.edge import peer_error
from lookalike.runtime.replicas import name_behind, resolve_address
from lookalike.v1 import index_pb2, index_pb2_grpc
from lookalike.v1.index_pb2 import (
    ListChangesRequest,
    ListedChange,
    ListRecentRevisionsRequest,
    ListRevisionsRequest,
    PeerPosition,
    UpdateResult,
)
from lookalike.v1.types_pb2 import SpaceEncoder

log = logging.getLogger(__name__)

INTERVAL_S = 0.2  # Between two passes: what a gateway could not send is here within half a second.
TICK_S = 0.1
RESOLVE_S = 1.0  # Names are resolved, and peers described, so often.
TIMEOUT_S = 1.0  # Of a call with a small answer: a peer that hangs costs this, and nobody else waits for it.
PAGE_TIMEOUT_S = 5.0  # Of each page of a long answer.
_FETCHED = 512  # Products in one call.
_FEW = 1000  # Revisions that are compared in 2 ms, and so in the event loop.
_FULL_WAIT_S, _MAX_FULL_WAIT_S = 0.2, 60.0  # A compaction makes room in seconds.
_NO_CHANGES = 1 << 62  # More than any known_sequence: Describe lists no recent changes.

Page = TypeVar("Page")
Resolve = Callable[[str], Awaitable[Sequence[str]]]


def new_replica_name() -> str:
    """Names this process among the replicas of its shard."""
    return secrets.token_hex(8)


@dataclass(slots=True, eq=False)
class _Peer:
    address: str
    stub: index_pb2_grpc.IndexShardAsyncStub
    replica: str = ""  # As it names itself; empty: it was not described, or another process answers there now.
    states: Sequence[index_pb2.ShardState] = ()
    described_s: float = 0.0
    pulls: dict[Pair, Pull] = field(default_factory=dict)
    is_peer: bool = True  # False: it serves another shard.
    current_s: float = 0.0  # When all its changes were here.
    failure: str = ""  # Why it does not answer, as it was logged.


class Peers:
    """The other replicas of a shard; for one event loop.

    addresses: host:port of each; a host may be a name of several. This replica itself may be among them, and those of
               other shards, as where one name stands for all: they are recognised by what they say of themselves.
    progress:  whether this replica may lack changes; the writer knows it, too.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        shard: int,
        served: ShardVersions,
        writer: Writer,
        progress: CatchingUp,
        *,
        resolve: Resolve = resolve_address,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self.replica = new_replica_name()
        self._addresses = addresses
        self._shard = shard
        self._served = served
        self._writer = writer
        self._resolve = resolve
        self._clock = clock
        self._progress = progress
        self._peers: dict[str, _Peer] = {}
        self._own_addresses = set[str]()
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._thread = ThreadPoolExecutor(1, "peers", initializer=lower_thread_priority)
        metrics.CATCHING_UP.labels(shard).set(1)

    def is_catching_up(self) -> bool:
        """Whether this replica may lack changes that a peer has acknowledged."""
        return self._progress.is_behind(self._clock(), process_time())

    def positions(self) -> list[PeerPosition]:
        """How far it has the changes of each peer."""
        return [each for peer in self._peers.values() for each in peer_positions(peer.replica, peer.pulls)]

    async def run(self, started: Callable[[], Awaitable[object]]) -> None:
        """Follow the peers for ever. started: returns when a version is loaded, which takes the changes."""
        await started()
        log.info("catching up with the peers %s", ",".join(self._addresses))
        self._progress.tick(self._clock(), process_time())
        self._progress.begin(self._clock())
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._tick())
                while True:
                    await self._find_peers(tasks)
                    await asyncio.sleep(RESOLVE_S)
        finally:
            self._thread.shutdown(wait=False)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            now_s = self._clock()
            if self._progress.tick(now_s, process_time()):
                log.warning("this process was stopped for a while: catching up with the peers")
            if (how := self._progress.end(now_s)) is not None:
                log.log(logging.INFO if how is End.CAUGHT_UP else logging.WARNING, "in service: %s", how.value)
            metrics.CATCHING_UP.labels(self._shard).set(self.is_catching_up())
            for peer in self._peers.values():
                if peer.is_peer:
                    metrics.PEER_LAG_SECONDS.labels(peer.address).set(now_s - peer.current_s)

    async def _find_peers(self, tasks: asyncio.TaskGroup) -> None:
        """Resolve the addresses; begin to follow those that are new, and forget those that are gone."""
        found = await asyncio.gather(*map(self._resolve_known, self._addresses))
        names = {
            each: name_behind(each, address)
            for address, resolved in zip(self._addresses, found, strict=True)
            for each in resolved
        }
        addresses = names.keys() - self._own_addresses
        for gone in self._tasks.keys() - addresses:
            self._tasks.pop(gone).cancel()
        for new in addresses - self._tasks.keys():
            self._tasks[new] = tasks.create_task(self._follow(new, names[new]))
        self._set_peers()

    def _set_peers(self) -> None:
        others = {address for address, peer in self._peers.items() if not peer.is_peer}
        self._progress.set_peers(self._tasks.keys() - self._own_addresses - others)

    async def _resolve_known(self, address: str) -> Sequence[str]:
        """The addresses behind one; while its name cannot be resolved, all that are known stay."""
        try:
            return await asyncio.wait_for(self._resolve(address), TIMEOUT_S)
        except (OSError, UnicodeError):  # The latter for a host that cannot be a name; TimeoutError is an OSError.
            return [*self._tasks]

    async def _follow(self, address: str, name: str) -> None:
        async with aio_channel(address, name) as channel:
            peer = _Peer(address, index_pb2_grpc.IndexShardStub(channel), current_s=self._clock())
            self._peers[address] = peer
            try:
                while address not in self._own_addresses:
                    await self._pass(peer)
                    await asyncio.sleep(INTERVAL_S)
            finally:
                del self._peers[address]
                with suppress(KeyError):
                    metrics.PEER_LAG_SECONDS.remove(address)

    async def _pass(self, peer: _Peer) -> None:
        """Pull from a peer once; whatever fails is logged, once, and tried again in the next pass."""
        episode = self._progress.episode
        try:
            if not await self._describe(peer):
                self._own_addresses.add(peer.address)
                self._set_peers()
                return
            self._set_peers()
            self._progress.note_answer(peer.address)
            for pair, pull in peer.pulls.items():
                await self._pull(peer, pair, pull)
        except grpc.aio.AioRpcError as error:
            self._note_failure(peer, str(peer_error(error, f"peer {peer.address}")))
        except TimeoutError:
            self._note_failure(peer, f"peer {peer.address} did not answer in time")
        except LookalikeError as error:
            self._note_failure(peer, str(error))
        else:
            if peer.failure:
                log.info("peer %s answers", peer.address)
            peer.failure, peer.current_s = "", self._clock()
            self._progress.note_pulled(peer.address, episode)

    def _note_failure(self, peer: _Peer, reason: str) -> None:
        if not peer.failure:  # One that never answered is most likely starting, too, or this replica itself.
            level = logging.WARNING if peer.replica else logging.INFO
            log.log(level, "no changes are taken from a peer: %s", reason)
        peer.failure, peer.described_s = reason, 0.0
        self._progress.note_failure(peer.address)

    async def _describe(self, peer: _Peer) -> bool:
        """Ask a peer which versions it has, unless it was asked a moment ago; False: it is this replica itself."""
        if peer.described_s and self._clock() - peer.described_s < RESOLVE_S:
            return True
        request = index_pb2.DescribeRequest(known_sequence=_NO_CHANGES)
        response = await peer.stub.Describe(request, timeout=TIMEOUT_S, metadata=outgoing())
        if response.replica == self.replica:
            return False
        if response.replica != peer.replica:  # Another process, whose numbers may count other changes.
            peer.pulls = {}
        peer.replica, peer.states, peer.described_s = response.replica, response.versions, self._clock()
        peer.is_peer = any(each.shard == self._shard for each in peer.states)
        pairs = pair_versions(peer.states, self._own_parts())
        peer.pulls = {pair: peer.pulls.get(pair) or Pull() for pair in pairs}
        return True

    def _own_parts(self) -> dict[str, ShardPart]:
        parts = {}
        for name in self._served.uses():
            with suppress(FailedPrecondition, Unavailable), self._served.lease(name) as shard:  # Dropped just now.
                parts[name] = ShardPart(shard.shard, shard.manifest.shards)
        return parts

    async def _pull(self, peer: _Peer, pair: Pair, pull: Pull) -> None:
        """List what changed in a version of a peer since the last pass; fetch what was listed then, and is not here."""
        await self._fetch(peer, pair, await self._lacking(pair.target, [*pull.waiting.items()]))
        pull.note_arrived()
        recent = await peer.stub.ListRecentRevisions(
            ListRecentRevisionsRequest(version=pair.source, known_sequence=pull.listed),
            timeout=TIMEOUT_S,
            metadata=outgoing(),
        )
        if recent.forgotten:
            pull.note_listed(await self._pull_all(peer, pair), {})
            return
        lacking = await self._lacking(pair.target, _revisions_of(peer, recent))
        if self.is_catching_up():
            await self._fetch(peer, pair, lacking)
            lacking = {}
        pull.note_listed(recent.sequence, lacking)

    async def _pull_all(self, peer: _Peer, pair: Pair) -> int:
        """Fetch what is lacking of all changes of a version of a peer; returns the number of the last one."""
        sequence = 0
        async for page in _pages(peer.stub.ListRevisions(ListRevisionsRequest(version=pair.source))):
            sequence = page.sequence
            await self._fetch(peer, pair, await self._lacking(pair.target, _revisions_of(peer, page)))
        return sequence

    async def _lacking(self, target: str, listed: Sequence[tuple[bytes, int]]) -> dict[bytes, int]:
        """Those of the products whose revision here is older."""
        with self._served.lease(target) as shard:
            live = _require_live(shard.live)
            if len(listed) <= _FEW:
                return _newer(live, listed)
            return await run_in_thread(self._thread, partial(_newer, live, listed))

    async def _fetch(self, peer: _Peer, pair: Pair, ids: Collection[bytes]) -> None:
        """Fetch the changes of these products from a version of a peer, and apply them to the version here."""
        if not ids:
            return
        with self._served.lease(pair.target) as shard:
            encoders = _require_live(shard.live).encoders
        named = [SpaceEncoder(space=space, encoder=each) for space, each in encoders.items()]
        waiting = [*ids]
        for start in range(0, len(waiting), _FETCHED):
            part = waiting[start : start + _FETCHED]
            request = ListChangesRequest(version=pair.source, encoders=named, ids=part)
            async for page in _pages(peer.stub.ListChanges(request)):
                await self._apply(pair.target, page.changes)

    async def _apply(self, target: str, changes: Sequence[ListedChange]) -> None:
        """Apply changes of a peer; while there is no room, wait for a compaction. Raises Overloaded."""
        give_up_s = self._clock() + _MAX_FULL_WAIT_S
        while changes:
            outcomes = await self._writer.pull(target, changes)
            metrics.PEER_CHANGES.inc(sum(each.outcome == UpdateResult.APPLIED for each in outcomes))
            changes = [
                each for each, outcome in zip(changes, outcomes, strict=True) if outcome.outcome == UpdateResult.FULL
            ]
            if changes and self._clock() > give_up_s:
                raise Overloaded(f"version {target} has no room for the changes of a peer")
            if changes:
                await asyncio.sleep(_FULL_WAIT_S)


async def _pages(call: Any) -> AsyncIterator[Any]:
    """The pages of an answer, each of which must come in time. Raises TimeoutError and grpc.aio.AioRpcError."""
    try:
        while (page := await asyncio.wait_for(call.read(), PAGE_TIMEOUT_S)) is not grpc.aio.EOF:
            yield page
    finally:
        call.cancel()


def _revisions_of(peer: _Peer, listed: index_pb2.RevisionList) -> Sequence[tuple[bytes, int]]:
    """The ids and revisions of a list. Raises Unavailable where another process than the known one has sent it."""
    if listed.replica != peer.replica:
        raise Unavailable(f"peer {peer.address}: it is another process now")
    return [*zip(listed.ids, listed.revisions, strict=True)]


def _newer(live: LiveShard, listed: Sequence[tuple[bytes, int]]) -> dict[bytes, int]:
    return {product_id: revision for product_id, revision in listed if live.revision(product_id) < revision}


def _require_live(live: LiveShard | None) -> LiveShard:
    if live is None:
        raise FailedPrecondition("this shard takes no updates")
    return live
