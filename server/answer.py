"""The answer to a search: its hits and provenance, as bytes. Pure.

Hits and provenance are serialized once, then cached and shared as bytes; each call appends the provenance fields that
are its own: whether the answer was cached, how stale it is, and the call's timings. No field occurs twice: not every
parser merges a sub-message that does (protobuf.js replaces the first), whatever the encoding's specification says.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from types import MappingProxyType
from typing import NamedTuple

from encoders.clients import InputVectors
from lookalike.errors import Unavailable
from lookalike.shard_query import ShardHits
from lookalike.spaces import space_name
from lookalike.v1.search_pb2 import Provenance, SearchResponse, Timings
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, Space
from server import metrics
from server.classify_request import ClassifyQuery
from server.merge import Ranking, merge_hits
from server.metrics import RequestTimer
from server.policy import Route
from server.query import SearchQuery
from server.shard_group import ShardResults
from server.topology import Snapshot
from server.wire import tag, varint

# Of every response, cached or not, so written by hand, in a sixth of the time that messages take: the tags of
# Provenance.cached, Provenance.timings and each field of Timings, before their values (protobuf's encoding).
_CALL = struct.Struct("<BBBBBfBfBfBfBf")
_STALE = struct.Struct("<BBf")  # Provenance.stale_s, with its tag of two bytes.
_PROVENANCE = tag(2)  # SearchResponse.provenance
_TRUNCATED = SearchResponse(truncated=True).SerializeToString()


class SearchAnswer(NamedTuple):
    """The answer to a search; calls with equal requests share it."""

    hits: bytes  # A SearchResponse without provenance.
    provenance: bytes  # A Provenance without the fields of a single call.
    space_label: str  # The searched spaces as metrics name them: "image", "image+text".
    complete: bool  # No shard is missing and nothing else failed: only such an answer is cached.

    def response(self, timer: RequestTimer) -> bytes:
        """The serialized SearchResponse of one call."""
        stale = _STALE.pack(0x85, 0x01, timer.stale_s) if timer.stale_s else b""
        length = len(self.provenance) + _CALL.size + len(stale)
        return b"".join((self.hits, _PROVENANCE, varint(length), self.provenance, _call_provenance(timer), stale))


def rank_hits(query: SearchQuery, results: ShardResults, limit: int) -> Ranking:
    """The best `limit` hits of the shards that answered."""
    shards = [hits for hits in results.hits if hits is not None]
    return merge_hits(shards, limit, max_per_shop=query.max_per_shop)


def build_answer(
    query: SearchQuery,
    snapshot: Snapshot,
    route: Route,
    results: ShardResults,
    hits: Ranking,
    *,
    contributions: Sequence[bytes] = (),
    shortfalls: Mapping[Space.ValueType, str] = MappingProxyType({}),
) -> SearchAnswer:
    """Build the answer from the first `limit` hits. Raises Unavailable if coverage is below `min_coverage`.

    contributions: with `explain`, the serialized field of each of the first hits.
    shortfalls:    spaces in which searches find less than the version's build promised, each with a sentence.
    """
    degraded = search_degradations(query, snapshot, route, results, shortfalls)
    metrics.ANSWERS.labels("found" if len(hits) else "empty").inc()
    if degraded or query.explain:
        provenance = _provenance(snapshot, route, results.hits, exact=query.exact, degraded=degraded)
        if provenance.coverage < query.min_coverage:
            reasons = "; ".join(results.failures)
            raise Unavailable(f"coverage {provenance.coverage:.3f} is below {query.min_coverage:.3f}: {reasons}")
        serialized_provenance = provenance.SerializeToString()
    else:
        serialized_provenance = _usual_provenance(snapshot, route, query.exact)
    encoded = hits.first(query.limit).encoded(route.spaces, contributions)
    if query.min_score is not None and len(hits) > query.limit:
        encoded += _TRUNCATED
    return SearchAnswer(encoded, serialized_provenance, space_label(route.spaces), complete=not results.failures)


def build_empty_answer(query: SearchQuery, snapshot: Snapshot, route: Route) -> SearchAnswer:
    """The answer to a query of which no example is left: no hits, and the reason. It asked no shard, so lacks none."""
    metrics.ANSWERS.labels("empty").inc()
    provenance = Provenance(version=snapshot.version, policy=route.policy, coverage=1.0, exact=query.exact)
    provenance.canary = snapshot.is_canary
    provenance.degraded.extend(_text_degradations(query))
    for space, info in snapshot.require_spaces(route.spaces).items():
        share = route.shares[route.spaces.index(space)]
        provenance.spaces.add(space=space, encoder=info.encoder, weight=share)
    return SearchAnswer(b"", provenance.SerializeToString(), space_label(route.spaces), complete=True)


@lru_cache(maxsize=64)
def _usual_provenance(snapshot: Snapshot, route: Route, exact: bool) -> bytes:
    """The provenance of every answer of a snapshot to which all shards contributed and that nothing degraded."""
    return _provenance(snapshot, route, [ShardHits()] * snapshot.shards, exact=exact, degraded=()).SerializeToString()


def _provenance(
    snapshot: Snapshot, route: Route, hits: Sequence[ShardHits | None], *, exact: bool, degraded: Sequence[str]
) -> Provenance:
    infos = snapshot.require_spaces(route.spaces).values()
    documents = [*map(sum, zip(*(info.documents for info in infos), strict=True))]
    searched, total = sum(n for n, each in zip(documents, hits, strict=True) if each is not None), sum(documents)
    provenance = Provenance(
        version=snapshot.version,
        policy=route.policy,
        coverage=searched / total if total else 1.0,
        documents_searched=searched,
        documents_total=total,
        shards_asked=len(hits),
        shards_answered=sum(each is not None for each in hits),
        exact=exact,
        degraded=degraded,
        canary=snapshot.is_canary,
    )
    for space, info, share in zip(route.spaces, infos, route.shares, strict=True):
        provenance.spaces.add(space=space, encoder=info.encoder, weight=share)
    for shard, shard_hits in enumerate(hits):
        for plan in shard_hits.plans if shard_hits is not None else ():
            provenance.plans.add(shard=shard).MergeFrom(plan)
    return provenance


@cache  # At most seven entries: the non-empty sets of three spaces.
def space_label(spaces: tuple[Space.ValueType, ...]) -> str:
    """The spaces as metrics name them: "image+text"."""
    return "+".join(map(space_name, spaces))


# A product encoder that was trained on an untrained image encoder has "-untrained-" in its fingerprint, too.
_UNTRAINED = {
    SPACE_IMAGE: "the image encoder is untrained: it compares only colour and rough texture",
    SPACE_PRODUCT: "the product encoder was trained on an untrained image encoder: photos have little effect",
}


def search_degradations(
    query: SearchQuery,
    snapshot: Snapshot,
    route: Route,
    results: ShardResults,
    shortfalls: Mapping[Space.ValueType, str] = MappingProxyType({}),
) -> list[str]:
    """The reasons why a search is degraded, as sentences; each is counted. No other place adds a reason."""
    reasons = _text_degradations(query)
    if results.failures:
        metrics.DEGRADED.labels("shard_missing").inc()
        reasons += results.failures
    if route.missing_vectors:
        metrics.DEGRADED.labels("vector_missing").inc()
        reasons += route.missing_vectors
    if snapshot.losses:
        metrics.DEGRADED.labels("changes_lost").inc()
        reasons += snapshot.losses
    for space in route.spaces:
        if "-untrained-" in snapshot.spaces[space].encoder:
            metrics.DEGRADED.labels("encoder_untrained").inc()
            reasons.append(_UNTRAINED.get(space) or f"the {space_name(space)} encoder is untrained")
    if shortfalls and not query.exact:
        short = [shortfalls[space] for space in route.spaces if space in shortfalls]
        if short:
            metrics.DEGRADED.labels("recall_short").inc()
            reasons += short
    return reasons


def _text_degradations(query: SearchQuery) -> list[str]:
    if not query.unknown_texts:
        return []
    metrics.DEGRADED.labels("text_unknown").inc()
    effect = "the other examples alone count" if query.examples else "nothing was searched for"
    return [f"{field}: the text encoder knows no word of it: {effect}" for field in query.unknown_texts]


def classification_degradations(query: ClassifyQuery, inputs: InputVectors) -> list[str]:
    """The reasons why a classification is less certain than it could be, as sentences; each is counted."""
    reasons = []
    if inputs.image is None or inputs.text is None:
        metrics.DEGRADED.labels("input_missing").inc()
        reasons.append(f"the product has no {'photo' if inputs.image is None else 'text'} to classify it by")
    if query.text is not None and inputs.text is None:
        reasons[-1] += ": the text encoder knows no word of the text"
    if inputs.image is not None and "-untrained-" in inputs.image.encoder:
        metrics.DEGRADED.labels("encoder_untrained").inc()
        reasons.append("the image encoder is untrained: the photo counts only by colour and rough texture")
    return reasons


def timings(timer: RequestTimer) -> Timings:
    stages = timer.stages
    return Timings(
        cache_s=stages.get("cache", 0.0),
        lookup_s=stages.get("lookup", 0.0),
        encode_s=stages.get("encode", 0.0),
        search_s=stages.get("search", 0.0),
        total_s=timer.elapsed_s(),
    )


def _call_provenance(timer: RequestTimer) -> bytes:
    """The Provenance fields that differ from call to call, serialized: whether it was cached, and its timings."""
    stage_s = timer.stages.get
    return _CALL.pack(
        *(0x58, timer.cached),
        *(0x62, 25),
        *(0x0D, stage_s("cache", 0.0)),
        *(0x15, stage_s("lookup", 0.0)),
        *(0x1D, stage_s("encode", 0.0)),
        *(0x25, stage_s("search", 0.0)),
        *(0x2D, timer.elapsed_s()),
    )
