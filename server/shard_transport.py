"""One shard as the gateway sees it, in another process or in this one. Pure: a Protocol."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from lookalike.errors import Unavailable
from lookalike.shard_query import ShardHits, ShardQuery
from lookalike.v1 import index_pb2


class ConnectionFailed(Unavailable):
    """No connection, or it broke: another replica of the shard may answer. For whoever has several."""


class Late(Unavailable):
    """No answer within the time-out. For whoever has several replicas."""


class ShardTransport(Protocol):
    """The service IndexShard of one shard, called over a network or in process.

    Every call raises a LookalikeError that names the shard: Unavailable when it does not answer within `timeout_s`,
    FailedPrecondition for a version that it does not serve, Overloaded when too much waits there, with the shard's own
    delay until it makes sense to try again. A call that is
    cancelled is given up. What is passed in both directions is not changed afterwards by either side.
    """

    @property
    def address(self) -> str:
        """Names the shard, in errors and logs."""

    @property
    def in_service(self) -> int:
        """How many replicas answer calls at once; 1 where there are none."""

    @property
    def numbering(self) -> str:
        """By whose numbers of changes `describe` and `apply` go; empty: the shard's own, the same for all gateways."""

    def sources(self) -> Sequence[ShardTransport]:
        """Those of its replicas that may have changes of their own; itself where there are none."""

    async def watch(self) -> None:
        """Watch the shard's health, for ever if there is something to watch."""

    async def describe(self, request: index_pb2.DescribeRequest, timeout_s: float) -> index_pb2.DescribeResponse: ...

    async def search(
        self, version: str, queries: Sequence[ShardQuery], timeout_s: float, *, ordinary_only: bool
    ) -> Sequence[ShardHits]:
        """The hits of each query, in order. With `ordinary_only`, costly queries are not answered, and say so."""

    async def fetch(self, request: index_pb2.FetchRequest, timeout_s: float) -> Sequence[index_pb2.FetchedProduct]: ...

    async def apply(self, request: index_pb2.ApplyRequest, timeout_s: float) -> index_pb2.ApplyResponse: ...

    async def count(self, request: index_pb2.ShardCountRequest, timeout_s: float) -> int: ...

    def list(
        self, request: index_pb2.ShardListRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ShardListPage]:
        """The pages, the next one read when it is asked for; None: without a time limit."""

    def list_changes(
        self, request: index_pb2.ListChangesRequest, timeout_s: float | None
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        """The changes of a version, as `list` gives pages."""

    async def seal(self, request: index_pb2.SealRequest, timeout_s: float) -> index_pb2.SealResponse: ...

    async def finish_handover(self, request: index_pb2.FinishHandoverRequest, timeout_s: float) -> None: ...

    async def close(self) -> None: ...
