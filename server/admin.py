"""The service Admin: what a gateway serves, and what operators change of it. I/O to shards, cache and releases."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from encoders.clients import EncoderReplica, Encoders
from lookalike.errors import FailedPrecondition, Overloaded, PermissionDenied, Unavailable
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import admin_pb2, index_pb2
from lookalike.v1.types_pb2 import SPACE_IMAGE
from server.admin_keys import Keys
from server.admin_releases import Releases
from server.metrics import time_request
from server.redis_result_cache import RedisResultCache
from server.replica_health import ReplicaState
from server.replicated_shard import ReplicatedShard
from server.result_cache import Flushed, ResultCache
from server.shard_group import ShardGroup
from server.shard_transport import ShardTransport
from server.topology import Snapshot
from server.version_watch import VersionWatch

log = logging.getLogger(__name__)

MAX_CALLS = 8  # At once; beyond it RESOURCE_EXHAUSTED.
_STOP_DELAY_S = 0.1  # In which the reply to Drain is written.

Handler = Callable[[Any, Deadline], Awaitable[Message]]


class AdminService:
    """The handlers of Admin.

    releases, keys: None where the process is not told where they are. stop: begins what SIGTERM begins.
    """

    def __init__(
        self,
        versions: VersionWatch,
        shards: ShardGroup,
        *,
        transports: Sequence[ShardTransport],
        encoders: Encoders,
        cache: ResultCache | None,
        releases: Releases | None,
        keys: Keys | None,
        enabled: bool,
        default_deadline_s: float,
        drain_s: float,
        stop: Callable[[], None],
    ) -> None:
        self._versions = versions
        self._shards = shards
        self._transports = transports
        self._encoders = encoders
        self._cache = cache
        self._releases = releases
        self._keys = keys
        self._enabled = enabled
        self._default_deadline_s = default_deadline_s
        self._drain_s = drain_s
        self._stop = stop
        self._calls = 0
        self._draining = False

    def methods(self) -> Mapping[str, edge.Unary]:
        """By name; each is timed, and few are answered at once: none of them waits for a permit."""
        handlers: Mapping[str, Handler] = {
            "GetStatus": self.get_status,
            "ListReleases": lambda request, deadline: self._of_releases().list_releases(request, deadline),
            "CutOver": lambda request, deadline: self._of_releases().cut_over(request, deadline),
            "RollBack": lambda request, deadline: self._of_releases().roll_back(request, deadline),
            "SetCanary": lambda request, deadline: self._of_releases().set_canary(request, deadline),
            "ListKeys": lambda request, deadline: self._of_keys().list_keys(request, deadline),
            "CreateKey": lambda request, deadline: self._of_keys().create_key(request, deadline),
            "RevokeKey": lambda request, deadline: self._of_keys().revoke_key(request, deadline),
            "FlushCache": self.flush_cache,
            "Drain": self.drain,
        }
        return {name: self._bounded(name, handler) for name, handler in handlers.items()}

    async def get_status(self, request: admin_pb2.GetStatusRequest, deadline: Deadline) -> admin_pb2.GetStatusResponse:
        try:
            snapshot: Snapshot | None = self._versions.snapshot()
        except Unavailable:  # No shard has answered yet: this is what tells why.
            snapshot = None
        described = await self._shards.describe(snapshot.version if snapshot else "")
        response = admin_pb2.GetStatusResponse(
            cache=_kind(self._cache),
            draining=self._draining,
            shards=[_shard_status(*each, snapshot) for each in zip(self._transports, described, strict=True)],
            encoders=[
                admin_pb2.EncoderStatus(
                    role=_role(each), fingerprints=sorted(each.fingerprints), refuses=bool(each.refusal)
                )
                for each in self._encoders.in_reach
            ],
        )
        for number, shard in enumerate(response.shards):
            shard.shard = number
        if snapshot is not None:
            response.release = snapshot.version
            response.coverage = _coverage(snapshot, [shard.serves for shard in response.shards])
            response.waits_for_encoders = len(snapshot.waits_for)
        if (canary := self._versions.canary) is not None:
            response.canary.release, response.canary.share = canary.snapshot.version, canary.share
        return response

    async def flush_cache(
        self, request: admin_pb2.FlushCacheRequest, deadline: Deadline
    ) -> admin_pb2.FlushCacheResponse:
        flushed = Flushed(0, complete=True)
        if self._cache is not None:
            flushed = await self._cache.flush(deadline.or_after(self._default_deadline_s))
        return admin_pb2.FlushCacheResponse(removed=flushed.removed, complete=flushed.complete)

    async def drain(self, request: admin_pb2.DrainRequest, deadline: Deadline) -> admin_pb2.DrainResponse:
        if not self._draining:
            self._draining = True
            log.warning("draining, as Admin was asked to")
            asyncio.get_running_loop().call_later(_STOP_DELAY_S, self._stop)
        return admin_pb2.DrainResponse(seconds=self._drain_s)

    def _of_releases(self) -> Releases:
        if self._releases is None:
            raise FailedPrecondition("this process is not told where the releases are (its setting `releases`)")
        return self._releases

    def _of_keys(self) -> Keys:
        if self._keys is None:
            raise FailedPrecondition("this process asks for no API keys (its setting `keys`)")
        return self._keys

    def _bounded(self, name: str, handler: Handler) -> edge.Unary:
        async def call(request: Any, deadline: Deadline) -> Message:
            with time_request(name):
                if not self._enabled:
                    raise PermissionDenied("Admin is not answered here (its setting `admin`)")
                if self._calls >= MAX_CALLS:
                    raise Overloaded(f"{self._calls} calls of Admin are in progress, the limit is {MAX_CALLS}")
                self._calls += 1
                try:
                    return await handler(request, deadline)
                finally:
                    self._calls -= 1

        return call


def _role(encoder: EncoderReplica) -> str:
    """Its name has its address."""
    return "image encoder" if SPACE_IMAGE in encoder.spaces else "text encoder"


def _kind(cache: ResultCache | None) -> str:
    return "none" if cache is None else "shared" if isinstance(cache, RedisResultCache) else "memory"


def _shard_status(
    transport: ShardTransport, described: index_pb2.DescribeResponse | None, snapshot: Snapshot | None
) -> admin_pb2.ShardStatus:
    replicas = transport.replica_states() if isinstance(transport, ReplicatedShard) else [ReplicaState.IN_SERVICE]
    status = admin_pb2.ShardStatus(replicas=[each.value for each in replicas])
    if described is None:
        return status
    status.releases.extend(each.version for each in described.versions)
    status.refuses, status.catching_up = bool(described.refusal), described.catching_up
    for state in described.versions:
        if snapshot is not None and state.version == snapshot.version:
            status.serves, status.documents = True, state.documents
            status.lost_changes = state.live.lost_changes
    return status


def _coverage(snapshot: Snapshot, serving: Sequence[bool]) -> float:
    """The share of the vectors that is in shards which serve the version, of the space where it is least."""
    shares = []
    for space in snapshot.spaces.values():
        served = sum(count for count, serves in zip(space.documents, serving, strict=False) if serves)
        shares.append(served / sum(space.documents) if any(space.documents) else 1.0)
    return min(shares, default=0.0)
