"""One search, from the request to the bytes of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from lookalike.deadline import Deadline
from lookalike.errors import NotFound
from lookalike.vectors import F32, pack, unpack
from protos.lookalike.v1 import index_pb2, search_pb2
from protos.lookalike.v1.types_pb2 import SPACE_AUTO, Filter, Space
from server.admission import Admission
from server.answer import SearchAnswer, answered
from server.cache import Cache, cache_key
from server.encoding import Encoders
from server.metrics import Watch, watched
from server.policy import AutoPolicy, Route, products_space, requested_space, space_name
from server.requests import Example, Query, Source, combined, parse_query, unit_vector
from server.shards import Fleet
from server.single_flight import SingleFlight
from server.topology import Snapshot

Result = TypeVar("Result")
# The example products of a query, by id.
Products = Mapping[str, index_pb2.Fetched]


@dataclass(frozen=True, slots=True)
class Searcher:
    fleet: Fleet
    encoders: Encoders
    cache: Cache
    policy: AutoPolicy
    admission: Admission
    default_deadline_s: float
    flights: SingleFlight[SearchAnswer]

    async def search(self, request: search_pb2.SearchRequest, deadline: Deadline) -> bytes:
        """A serialized SearchResponse: an answer that all who ask the same share, with the stamp of this very call."""
        with watched("Search") as watch, self.admission.permit():
            deadline = deadline.or_after(self.default_deadline_s)
            query = parse_query(request)
            snapshot = self.fleet.snapshot()
            key = cache_key(snapshot.version, self.policy.text, request, query)
            with watch.stage("cache"):
                kept = await self.cache.get(key)
            if kept is not None:
                answer, watch.cached = SearchAnswer.of_kept(kept), True
            else:
                flight = f"{key}:{query.min_coverage}"
                answer = await self.flights(
                    flight, lambda: self._found(key, query, snapshot, watch, deadline), deadline
                )
            watch.space = answer.searched
            return answer.stamped(watch)

    async def _found(
        self, key: str, query: Query, snapshot: Snapshot, watch: Watch, deadline: Deadline
    ) -> SearchAnswer:
        requested = requested_space(query)
        with watch.stage("lookup"):
            products = await self._products(query, snapshot, deadline)
        space = self._auto(query, products) if requested == SPACE_AUTO else requested
        route = Route(((space, 1.0),))
        snapshot.space(space)
        with watch.stage("encode"):
            vectors = [self._vector(example, products, snapshot, space, deadline) for example in query.examples]
            vector = combined(await _all(vectors), [example.weight for example in query.examples])
        with watch.stage("search"):
            gathered = await self.fleet.search(snapshot, _shard_query(query, route, [vector], products), deadline)
        answer = answered(query, snapshot, route, gathered, without=products)
        if answer.whole:
            self.cache.put(key, answer.to_keep())
        return answer

    async def _products(self, query: Query, snapshot: Snapshot, deadline: Deadline) -> Products:
        """Raises NotFound for a product that the catalogue lacks."""
        ids = [str(example.value) for example in query.of(Source.PRODUCT)]
        found = await _all([self.fleet.lookup(snapshot, product_id, deadline) for product_id in ids])
        for product_id, fetched in zip(ids, found, strict=True):
            if not fetched.HasField("product"):
                raise NotFound(f"no product {product_id}")
        return dict(zip(ids, found, strict=True))

    def _auto(self, query: Query, products: Products) -> Space.ValueType:
        weightiest = max(query.of(Source.PRODUCT), key=lambda example: example.weight)
        fetched = products[str(weightiest.value)]
        has = {each.space for each in fetched.vectors}
        return products_space(self.policy, fetched.product.category, fetched.product.id, has)

    async def _vector(
        self, example: Example, products: Products, snapshot: Snapshot, space: Space.ValueType, deadline: Deadline
    ) -> F32:
        """(dim,) float32 of unit norm."""
        info = snapshot.space(space)
        match example.source, example.value:
            case Source.PRODUCT, str(product_id):
                return _product_vector(products[product_id], space, info.dim)
            case Source.VECTOR, bytes(data):
                return unit_vector(example.field, data, info.dim)
            case Source.IMAGE, bytes(data):
                return await self.encoders.image(example.field, data, info, deadline)
            case Source.TEXT, str(text):
                return await self.encoders.text(example.field, text, info, deadline)
        raise TypeError(f"{example.source} with a {type(example.value).__name__}")


async def _all(coroutines: Sequence[Coroutine[None, None, Result]]) -> list[Result]:
    """Their results; one is awaited in place, without a task of its own: the common case and the fast path."""
    if len(coroutines) == 1:
        return [await coroutines[0]]
    return await asyncio.gather(*coroutines)


def _product_vector(fetched: index_pb2.Fetched, space: Space.ValueType, dim: int) -> F32:
    for each in fetched.vectors:
        if each.space == space:
            vector: F32 = unpack(each.vector, dim)[0]
            return vector
    raise NotFound(f"product {fetched.product.id} has no {space_name(space)} vector")


def _shard_query(query: Query, route: Route, vectors: Sequence[F32], products: Products) -> index_pb2.ShardQuery:
    """The example products themselves may come back from the shards: so many hits more are asked for."""
    filter = query.filter
    if query.exclude_same_shop:
        shops = {fetched.product.shop for fetched in products.values() if fetched.product.shop}
        filter = Filter()
        filter.CopyFrom(query.filter)
        filter.shop_not_in.extend(sorted(shops.difference(filter.shop_not_in)))
    return index_pb2.ShardQuery(
        vectors=[
            index_pb2.QueryVector(space=space, vector=pack(vector), weight=share)
            for (space, share), vector in zip(route.shares, vectors, strict=True)
        ],
        k=query.limit + len(products),
        filter=filter,
        exact=query.exact,
        explain=query.explain,
    )
