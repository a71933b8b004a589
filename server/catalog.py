"""Reading the catalogue: Get, Exists, Count and List. I/O to the shards.

An answer is complete or an error: a missing shard never makes a shorter list or a smaller count.
"""

from __future__ import annotations

import heapq
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

from lookalike.errors import InvalidRequest, NotFound
from lookalike.limits import MAX_IDS
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.product_fields import check_product_id
from lookalike.v1 import catalog_pb2
from lookalike.v1.types_pb2 import Product, SpaceEncoder, SpaceVector
from server.admission import Permit
from server.filters import check_filter
from server.shard_group import ShardGroup
from server.version_watch import VersionWatch


@dataclass(frozen=True, slots=True)
class CatalogReader:
    """The handlers of Get, Exists, Count and List."""

    versions: VersionWatch
    shards: ShardGroup
    default_deadline_s: float

    async def get(self, request: catalog_pb2.GetRequest, deadline: Deadline, permit: Permit) -> catalog_pb2.GetResponse:
        check_product_id("product_id", request.product_id)
        snapshot = self.versions.snapshot()
        spaces = [space for space in request.vectors if space in snapshot.spaces]
        fetched = await self.shards.get(snapshot, request.product_id, spaces, self._or_default(deadline))
        if not fetched.HasField("product"):
            raise NotFound(f"no product {request.product_id}")
        vectors = [
            SpaceVector(space=each.space, vector=each.vector, encoder=snapshot.spaces[each.space].encoder)
            for each in fetched.vectors
        ]
        return catalog_pb2.GetResponse(product=Product.FromString(fetched.product), vectors=vectors)

    async def exists(
        self, request: catalog_pb2.ExistsRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.ExistsResponse:
        if not 1 <= len(request.product_ids) <= MAX_IDS:
            raise InvalidRequest("product_ids", f"{len(request.product_ids)} ids, 1..{MAX_IDS} are allowed")
        for i, product_id in enumerate(request.product_ids):
            check_product_id(f"product_ids[{i}]", product_id)
        exist = await self.shards.exist(self.versions.snapshot(), request.product_ids, self._or_default(deadline))
        return catalog_pb2.ExistsResponse(exists=exist)

    async def count(
        self, request: catalog_pb2.CountRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.CountResponse:
        filter = check_filter(request.filter)
        snapshot = self.versions.snapshot().require_all_shards()
        count = await self.shards.count(snapshot, filter, self._or_default(deadline))
        encoders = [SpaceEncoder(space=space, encoder=info.encoder) for space, info in sorted(snapshot.spaces.items())]
        return catalog_pb2.CountResponse(count=count, version=snapshot.version, encoders=encoders)

    async def list(
        self, request: catalog_pb2.ListRequest, deadline: Deadline, permit: Permit
    ) -> AsyncGenerator[bytes, None]:
        """Serialized products, by rising id. Only the caller's own deadline ends it: the catalogue may be long."""
        filter = check_filter(request.filter)
        if request.HasField("limit") and request.limit == 0:
            raise InvalidRequest("limit", "is 0; leave it out to list all products")
        streams = self.shards.streams(
            self.versions.snapshot().require_all_shards(),
            filter,
            request.after,
            deadline,
            descriptions=request.descriptions,
        )
        sent = 0
        async for product in _merge_by_id(streams):
            yield product
            sent += 1
            if request.HasField("limit") and sent == request.limit:
                return

    def _or_default(self, deadline: Deadline) -> Deadline:
        return deadline.or_after(self.default_deadline_s)


async def _merge_by_id(streams: list[AsyncIterator[tuple[str, bytes]]]) -> AsyncIterator[bytes]:
    """Merge streams of (id, product), each by rising id, into one by rising id; it holds one product of each stream."""
    heads = []
    for i, stream in enumerate(streams):
        async for product_id, product in stream:
            heads.append((product_id, i, product))
            break
    heapq.heapify(heads)
    while heads:
        _, i, product = heads[0]
        yield product
        try:
            product_id, next_product = await anext(streams[i])
        except StopAsyncIteration:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (product_id, i, next_product))
