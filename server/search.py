"""Search and FindDuplicates: from the request to the bytes of the response. I/O to cache, shards and encoders."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain

from encoders.clients import Encoders
from lookalike.errors import FailedPrecondition, LookalikeError, ServiceError
from lookalike.runtime import tracing
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.failure_log import told
from lookalike.runtime.methods import parse_message
from lookalike.runtime.slow_log import SlowLog
from lookalike.shard_query import ShardQuery
from lookalike.status import code_of
from lookalike.timestamps import unix_time_s
from lookalike.v1 import search_pb2
from lookalike.v1.types_pb2 import Filter
from lookalike.vectors import F32
from server import metrics
from server.admission import Permit
from server.answer import SearchAnswer, build_answer, build_empty_answer, rank_hits, space_label
from server.cached_answer import CachedAnswer, Void, basis_of, pack_answer, read_answer
from server.diversity import CANDIDATES_PER_HIT, diversify, hit_vectors
from server.explanation import Explainer
from server.key_limits import KeyLimits, check_search
from server.merge import Ranking
from server.metrics import RequestTimer
from server.online_recall import OnlineRecall
from server.policy import AutoPolicy, Route, drop_empty_spaces, drop_unknown_texts, resolve_route
from server.query import ENCODED, EXAMPLE_FIELDS, NO_FILTER, ExampleSource, SearchQuery, duplicates_search
from server.query_parser import QueryParser
from server.query_vectors import (
    ExampleProducts,
    QueryInputs,
    UnknownTexts,
    combine_vectors,
    compose_query_vectors,
    encode_examples,
)
from server.result_cache import MemoryResultCache, RequestKeys, ResultCache, digest_of
from server.shard_client import Spaces
from server.shard_group import ShardGroup, ShardResults
from server.single_flight import SingleFlight
from server.slow_searches import SearchDetails, log_slow
from server.stored_product import StoredProduct
from server.topology import Snapshot
from server.version_watch import VersionWatch

log = logging.getLogger(__name__)

_MAX_INLINE_BYTES = 1 << 17  # Of a request whose digest is computed on the event loop.
_LOOKUPS = {
    outcome: metrics.CACHE_LOOKUPS.labels(outcome)
    for outcome in ("hit", "stale_hit", "miss", *(void.value for void in Void))
}


@dataclass(frozen=True, slots=True)
class Searcher:
    """The handlers of Search and FindDuplicates."""

    versions: VersionWatch
    shards: ShardGroup
    encoders: Encoders
    cache: ResultCache | None
    keys: RequestKeys
    parser: QueryParser
    policy: AutoPolicy
    default_deadline_s: float
    cache_staleness_s: float
    flights: SingleFlight[SearchAnswer]
    recall: OnlineRecall
    callers: KeyLimits
    slow: SlowLog | None = None

    async def search(self, data: bytes, deadline: Deadline, permit: Permit) -> bytes:
        """A serialized SearchResponse to a serialized SearchRequest."""
        return await self.respond(data, permit.timer, deadline)

    def search_memory(self, cache: MemoryResultCache, data: bytes, timer: RequestTimer) -> bytes | None:
        """As `search`, at once and on any thread, where the answer is in the cache; None where it is not."""
        if len(data) > _MAX_INLINE_BYTES or (known := self.keys.remembered(digest_of(data))) is None:
            return None
        if self.versions.canary is not None:
            return None
        snapshot = self.versions.snapshot()
        if (value := cache.peek(f"{snapshot.version}{self.shards.numbering}:{known.key}")) is None:
            return None
        if isinstance(cached := self._read(value, snapshot), Void):
            return None
        check_search(exact=known.exact, limit=known.limit)
        timer.record("cache", timer.elapsed_s())
        return _cached_response(cached, timer)

    async def find_duplicates(
        self, request: search_pb2.FindDuplicatesRequest, deadline: Deadline, permit: Permit
    ) -> bytes:
        """A serialized SearchResponse; it shares its answer, cached or not, with the equivalent Search."""
        snapshot = self.versions.snapshot()
        search, threshold = duplicates_search(request, snapshot.duplicates)
        response = await self.respond(
            search.SerializeToString(), permit.timer, deadline, snapshot=snapshot, example_fields=("example",)
        )
        return response + search_pb2.SearchResponse(threshold=threshold).SerializeToString()

    async def respond(
        self,
        data: bytes,
        timer: RequestTimer,
        deadline: Deadline,
        *,
        snapshot: Snapshot | None = None,
        example_fields: Sequence[str] = EXAMPLE_FIELDS,
    ) -> bytes:
        """The same, for a call that was admitted already, alone or in a batch.

        It comes from the cache, an equal search in flight or a new search. Errors name examples by `example_fields`.
        snapshot: the version to search; None: the current one or, for its share of requests, the canary.
        """
        deadline = deadline.or_after(self.default_deadline_s)
        outcome = "OK"
        try:
            if self.versions.canary is not None and snapshot is None:
                return await self._respond_beside_canary(data, timer, deadline, example_fields)
            return await self._respond(data, timer, deadline, snapshot or self.versions.snapshot(), example_fields)
        except BaseException as error:
            outcome = code_of(error).name
            raise
        finally:
            if self.slow is not None:
                log_slow(self.slow, timer, outcome)

    async def _respond_beside_canary(
        self, data: bytes, timer: RequestTimer, deadline: Deadline, example_fields: Sequence[str]
    ) -> bytes:
        """As `respond`, from the version that is chosen for the request. No call fails because a version is tried."""
        snapshot = self.versions.choose(parse_message(search_pb2.SearchRequest, data).routing_key)
        if snapshot.is_canary:
            query = self._parse(data, example_fields)
            self.callers.count_photos(len(query.examples_by(ExampleSource.IMAGE)))
            try:
                with metrics.time_release("canary"):
                    answer = await self._search("", query, snapshot, timer, deadline)
            except (ServiceError, FailedPrecondition) as error:
                log.warning("the canary failed, so the current version answers: %s", error)
            else:
                timer.space = answer.space_label
                return answer.response(timer)
        with metrics.time_release("current"):
            return await self._respond(data, timer, deadline, self.versions.snapshot(), example_fields)

    async def _respond(
        self, data: bytes, timer: RequestTimer, deadline: Deadline, snapshot: Snapshot, example_fields: Sequence[str]
    ) -> bytes:
        """As `respond`, from this version."""
        query, key = None, ""
        if self.cache is not None:
            with timer.stage("cache"):
                digest = await _digest(data)
                known = self.keys.remembered(digest)  # The request was seen before: it need not be parsed.
                if known is None:
                    query = self._parse(data, example_fields)
                    known = self.keys.key(digest, search_pb2.SearchRequest.FromString(data), query)
                check_search(exact=known.exact, limit=known.limit)
                # Answers are compared with changes by numbers that may be this gateway's own.
                key = f"{snapshot.version}{self.shards.numbering}:{known.key}"
                value = await self.cache.get(key)
                cached = None if value is None else self._read(value, snapshot)
            if isinstance(cached, CachedAnswer):
                return _cached_response(cached, timer)
            _count_lookup("miss" if cached is None else cached.value)
        if query is None:
            with tracing.span("parse"):
                query = self._parse(data, example_fields)
        # Before the search is shared with equal ones in flight, whose callers have limits of their own.
        if ExampleSource.IMAGE in query.sources:
            self.callers.count_photos(len(query.examples_by(ExampleSource.IMAGE)))
        # A search that began before a change is not shared with a call that comes after it.
        content = snapshot.version, snapshot.changes.known.packed
        flight = (content, key, query.min_coverage) if key else (content, data)
        work = partial(self._search, key, query, snapshot, timer, deadline)
        answer = await self.flights(flight, work, deadline)
        timer.space = answer.space_label
        return answer.response(timer)

    def _parse(self, data: bytes, example_fields: Sequence[str]) -> SearchQuery:
        """Raises InvalidRequest, and PermissionDenied for what the caller may not ask for."""
        query = self.parser.parse(data, example_fields=example_fields)
        check_search(exact=query.exact, limit=query.limit)
        return query

    async def _search(
        self, key: str, query: SearchQuery, snapshot: Snapshot, timer: RequestTimer, deadline: Deadline
    ) -> SearchAnswer:
        """Look up example products, encode photos and texts, search the shards; cache a complete answer.

        Texts that say nothing to the text encoder are left out: what shoppers type is no error of the caller's.
        """
        timer.details = details = SearchDetails(query, snapshot)
        products: ExampleProducts = {}
        known, began_s = snapshot.changes.known, unix_time_s()  # Whatever changes from here on may be missing.
        route = resolve_route(query, snapshot.spaces, self.policy, snapshot.text_shares)
        if route is not None:
            snapshot.require_spaces(route.spaces)  # Fail before anything is looked up or encoded.
        if ExampleSource.PRODUCT in query.sources:
            with timer.stage("lookup"):
                ids = [str(example.value) for example in query.examples_by(ExampleSource.PRODUCT)]
                if route is None:
                    products, route = await self._lookup_by_policy(ids, query, snapshot, deadline)
                else:
                    products = await self._lookup(ids, route.spaces, snapshot, deadline)
        assert route is not None  # noqa: S101  # Only the category of an example product leaves it open.
        details.route = route
        if len(route.spaces) > 1 or products:
            route = drop_empty_spaces(route, query, {id: stored.vectors for id, stored in products.items()})
        spaces = snapshot.require_spaces(route.spaces)
        try:
            inputs, vectors = await self._compose_vectors(
                QueryInputs(query, spaces, products, {}), snapshot, timer, deadline
            )
        except UnknownTexts as unknown:
            if (rest := drop_unknown_texts(query, unknown.fields, route)).examples:
                return await self._search(key, rest, snapshot, timer, deadline)  # Its photos are encoded once more.
            return build_empty_answer(rest, snapshot, route)
        timer.costly = query.exact or query.explain or bool(query.diversity)
        with timer.stage("search"):
            shard_query = _shard_query(query, route, vectors, products, shards=snapshot.shards)
            results = await self.shards.search(snapshot, shard_query, deadline)
            if not snapshot.is_canary:
                self.recall.offer(snapshot, shard_query)
            details.shard_s, details.failures = results.seconds, results.failures
            with tracing.span("merge"):
                results, hits = await self._rank(query, snapshot, route, results, deadline)
            contributions: Sequence[bytes] = ()
            if query.explain:
                explainer = Explainer(
                    shards=self.shards,
                    encoders=self.encoders,
                    snapshot=snapshot,
                    route=route,
                    inputs=inputs,
                    vectors=vectors,
                )
                explained = hits.first(query.limit).ids
                results, contributions = await explainer.explain(explained, results, deadline)
        if (span := tracing.active()) is not None:
            missing = len(results.failures)
            span.set(release=snapshot.version, spaces=space_label(route.spaces), hits=len(hits), shards_failed=missing)
        shortfalls = self.recall.shortfalls(snapshot.version)
        answer = build_answer(query, snapshot, route, results, hits, contributions=contributions, shortfalls=shortfalls)
        # Contributions name the words of a text, which are kept nowhere (docs/data-protection.md).
        has_words = query.explain and ExampleSource.TEXT in query.sources
        if self.cache is not None and key and answer.complete and not has_words:
            depends_on = chain(hits.products, (stored.serialized for stored in products.values()))
            filtered = bool(shard_query.filter or shard_query.max_per_shop)
            self.cache.put(key, pack_answer(answer, basis_of(known, began_s, depends_on, filtered=filtered)))
        return answer

    def _read(self, value: bytes, snapshot: Snapshot) -> CachedAnswer | Void:
        return read_answer(value, snapshot.changes.known, unix_time_s(), self.cache_staleness_s)

    async def _compose_vectors(
        self, inputs: QueryInputs, snapshot: Snapshot, timer: RequestTimer, deadline: Deadline
    ) -> tuple[QueryInputs, list[F32]]:
        """The inputs, with what is to be encoded, and the query vector of each space. Raises as what makes them."""
        if inputs.query.sources.isdisjoint(ENCODED):
            return inputs, combine_vectors(inputs)
        with timer.stage("encode"):
            encoded = await encode_examples(self.encoders, inputs.query, snapshot, deadline)
            inputs = inputs._replace(encoded=encoded)
            return inputs, await compose_query_vectors(self.encoders, inputs, deadline)

    async def _rank(
        self, query: SearchQuery, snapshot: Snapshot, route: Route, results: ShardResults, deadline: Deadline
    ) -> tuple[ShardResults, Ranking]:
        """Rank the candidate hits, with the ones to return first: by score, or with `diversity` as `diversify` chooses.

        If the candidates' vectors cannot be fetched, the rank is by score and the returned results state a failure.
        """
        hits = rank_hits(query, results, _candidate_count(query))
        if not query.diversity or len(hits) < 2:
            return results, hits
        try:
            fetched = await self.shards.fetch(snapshot, hits.ids, route.spaces, deadline)
        except LookalikeError as error:
            return results.with_failure(f"not diversified: {told(error)}"), hits
        vectors = hit_vectors(fetched, snapshot.spaces, route)
        # On a thread: 100 hits of 500 take 15 ms at 1024 dimensions, in which this loop can serve other calls.
        chosen = await asyncio.to_thread(diversify, hits.scores, vectors, query.diversity, query.limit)
        others = sorted({*range(len(hits))}.difference(chosen))
        return results, hits.select([*chosen, *others])

    async def _lookup_by_policy(
        self, ids: Sequence[str], query: SearchQuery, snapshot: Snapshot, deadline: Deadline
    ) -> tuple[ExampleProducts, Route]:
        """The products by id, and AUTO's route for the category of the example product of the greatest weight.

        First with their vectors of the spaces that categories prefer; only where the product has none in the space that
        its own prefers, with all. Raises what `_lookup` does.
        """
        heaviest = max(query.examples_by(ExampleSource.PRODUCT), key=lambda example: example.weight)
        product_id, built = str(heaviest.value), snapshot.spaces
        products = await self._lookup(ids, self.policy.preferred_spaces(built), snapshot, deadline)
        category = products[product_id].parse().category
        if self.policy.preferred_space(category, built) not in products[product_id].vectors:
            products = await self._lookup(ids, built, snapshot, deadline)
        return products, self.policy.route_product(category, product_id, products[product_id].vectors)

    async def _lookup(
        self, ids: Sequence[str], spaces: Spaces, snapshot: Snapshot, deadline: Deadline
    ) -> ExampleProducts:
        """The products by id, with their vectors of these spaces. Raises NotFound for an id that there is not."""
        fetched = await run_concurrently(
            [self.shards.lookup(snapshot, product_id, spaces, deadline) for product_id in ids]
        )
        return {
            product_id: StoredProduct.from_fetched(product_id, each)
            for product_id, each in zip(ids, fetched, strict=True)
        }


def _cached_response(cached: CachedAnswer, timer: RequestTimer) -> bytes:
    answer, timer.stale_s = cached
    timer.cached, timer.space = True, answer.space_label
    _count_lookup("stale_hit" if timer.stale_s else "hit")
    return answer.response(timer)


def _count_lookup(outcome: str) -> None:
    _LOOKUPS[outcome].inc()


async def _digest(data: bytes) -> bytes:
    """Of a request; on a thread where that takes over 0.2 ms: a photo may have megabytes."""
    if len(data) > _MAX_INLINE_BYTES:
        return await asyncio.to_thread(digest_of, data)
    return digest_of(data)


def _candidate_count(query: SearchQuery) -> int:
    """How many hits to request from each shard.

    With `diversity` they are more, to choose from; with `min_score` one more, to see whether the limit cuts off any.
    """
    return query.limit * CANDIDATES_PER_HIT if query.diversity else query.limit + (query.min_score is not None)


def _shard_query(
    query: SearchQuery, route: Route, vectors: Sequence[F32], products: ExampleProducts, *, shards: int
) -> ShardQuery:
    filter = query.filter
    if query.exclude_same_shop:
        shops = {shop for stored in products.values() if (shop := stored.parse().shop)}
        filter = Filter()
        filter.CopyFrom(query.filter)
        filter.shop_not_in.extend(sorted(shops.difference(filter.shop_not_in)))
    return ShardQuery(
        vectors=dict(zip(route.spaces, vectors, strict=True)),
        weights=route.shares,
        filter=b"" if filter is NO_FILTER else filter.SerializeToString(deterministic=True),
        k=_candidate_count(query),
        exact=query.exact,
        explain=query.explain,
        exclude_ids=frozenset(products),
        min_score=-math.inf if query.min_score is None else query.min_score,
        max_per_shop=query.max_per_shop,
        omit_ids=shards == 1 and not query.diversity and not query.explain,
    )
