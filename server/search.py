"""One search, from the request to the bytes of the answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lookalike.errors import LookalikeError
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import index_pb2, search_pb2
from lookalike.v1.types_pb2 import Filter
from lookalike.vectors import F32, pack
from server.admission import Permit
from server.answer import SearchAnswer, answered, ranked
from server.cache import Cache, cache_key
from server.composition import Products, composed, concurrently
from server.diversity import POOL, diversified, vectors_of
from server.encoding import Encoders
from server.merge import Hit
from server.metrics import RequestTimer
from server.policy import AutoPolicy, Route, Vectors, narrowed, settled
from server.query import ExampleSource, SearchQuery, duplicates_search, parse_query
from server.shard_group import ShardGroup, ShardResults
from server.single_flight import SingleFlight
from server.stored import Stored
from server.topology import Snapshot
from server.version_watch import VersionWatch


@dataclass(frozen=True, slots=True)
class Searcher:
    versions: VersionWatch
    shards: ShardGroup
    encoders: Encoders
    cache: Cache
    policy: AutoPolicy
    default_deadline_s: float
    flights: SingleFlight[SearchAnswer]

    async def search(self, request: search_pb2.SearchRequest, deadline: Deadline, permit: Permit) -> bytes:
        """A serialized SearchResponse."""
        return await self._answer(request, parse_query(request), permit.timer, deadline)

    async def find_duplicates(
        self, request: search_pb2.FindDuplicatesRequest, deadline: Deadline, permit: Permit
    ) -> bytes:
        """A serialized SearchResponse, that of the same search if it was asked as one."""
        search = duplicates_search(request)
        return await self._answer(search, parse_query(search, example_field="example"), permit.timer, deadline)

    async def _answer(
        self, request: search_pb2.SearchRequest, query: SearchQuery, timer: RequestTimer, deadline: Deadline
    ) -> bytes:
        """One that all who ask the same share, with the stamp of this very call."""
        deadline = deadline.or_after(self.default_deadline_s)
        snapshot = self.versions.snapshot()
        key = cache_key(snapshot.content, self.policy.text, request, query)
        with timer.stage("cache"):
            kept = await self.cache.get(key)
        if kept is not None:
            answer, timer.cached = SearchAnswer.of_kept(kept), True
        else:
            flight = f"{key}:{query.min_coverage}"
            answer = await self.flights(flight, lambda: self._found(key, query, snapshot, timer, deadline), deadline)
        timer.space = answer.searched
        return answer.stamped(timer)

    async def _found(
        self, key: str, query: SearchQuery, snapshot: Snapshot, timer: RequestTimer, deadline: Deadline
    ) -> SearchAnswer:
        route = settled(query, snapshot.spaces, self.policy)
        if route is not None:
            snapshot.require_spaces(route.spaces)  # What the version lacks is refused before anything is looked up.
        with timer.stage("lookup"):
            products = await self._products(query, snapshot, deadline)
        has = {product_id: stored.vectors for product_id, stored in products.items()}
        route = narrowed(route or self._auto(query, products, has), query, has)
        with timer.stage("encode"):
            vectors = await composed(self.encoders, query, snapshot.require_spaces(route.spaces), products, deadline)
        with timer.stage("search"):
            results = await self.shards.search(snapshot, _shard_query(query, route, vectors, products), deadline)
            results, hits = await self._chosen(query, snapshot, route, results, deadline)
        answer = answered(query, snapshot, route, results, hits)
        if answer.whole:
            self.cache.put(key, answer.to_keep())
        return answer

    async def _chosen(
        self, query: SearchQuery, snapshot: Snapshot, route: Route, results: ShardResults, deadline: Deadline
    ) -> tuple[ShardResults, list[Hit]]:
        """The hits, those that are told first; by score alone, which the answer says, where vectors cannot be had."""
        hits = ranked(query, route, results, _depth(query))
        if not query.diversity or len(hits) < 2:
            return results, hits
        try:
            fetched = await self.shards.fetch(snapshot, [hit.id for hit in hits], route.spaces, deadline)
        except LookalikeError as error:
            return results.with_failure(f"not diversified: {error}"), hits
        vectors = vectors_of(fetched, snapshot.spaces, route)
        scores = np.array([-hit.negated for hit in hits], dtype=np.float32)
        # On a thread: 100 hits of 500 take 15 ms at 1024 dimensions, in which this loop can answer others.
        chosen = await asyncio.to_thread(diversified, scores, vectors, query.diversity, query.limit)
        others = sorted({*range(len(hits))}.difference(chosen))
        return results, [hits[place] for place in (*chosen, *others)]

    async def _products(self, query: SearchQuery, snapshot: Snapshot, deadline: Deadline) -> Products:
        """Raises NotFound for a product that the catalogue lacks."""
        ids = [str(example.value) for example in query.examples_by(ExampleSource.PRODUCT)]
        found = await concurrently([self.shards.lookup(snapshot, product_id, deadline) for product_id in ids])
        return {product_id: Stored.of(product_id, fetched) for product_id, fetched in zip(ids, found, strict=True)}

    def _auto(self, query: SearchQuery, products: Products, has: Vectors) -> Route:
        weightiest = max(query.examples_by(ExampleSource.PRODUCT), key=lambda example: example.weight)
        product_id = str(weightiest.value)
        return self.policy.route(products[product_id].product.category, product_id, has[product_id])


def _depth(query: SearchQuery) -> int:
    """How many hits to look at: some to choose among; or one more than are told, to see whether any was left out."""
    return query.limit * POOL if query.diversity else query.limit + (query.min_score is not None)


def _shard_query(query: SearchQuery, route: Route, vectors: Sequence[F32], products: Products) -> index_pb2.ShardQuery:
    filter = query.filter
    if query.exclude_same_shop:
        shops = {stored.product.shop for stored in products.values() if stored.product.shop}
        filter = Filter()
        filter.CopyFrom(query.filter)
        filter.shop_not_in.extend(sorted(shops.difference(filter.shop_not_in)))
    asked = index_pb2.ShardQuery(
        k=_depth(query),
        filter=filter,
        exact=query.exact,
        explain=query.explain,
        exclude_ids=sorted(products),
        min_score=query.min_score,
        max_per_shop=query.max_per_shop,
    )
    for space, share, vector in zip(route.spaces, route.shares, vectors, strict=True):
        asked.vectors.add(space=space, vector=pack(vector), weight=share)
    return asked
