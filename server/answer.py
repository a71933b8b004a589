"""What an answer says of itself, and its bytes. Pure.

Hits and provenance are serialized once, kept and shared as bytes; each call adds its own stamp to the provenance:
whether it was cached, and its timings. No field occurs twice: not every parser merges a sub-message that does
(protobuf.js replaces the first), whatever the encoding's specification says.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from lookalike.errors import Unavailable
from lookalike.spaces import space_name
from lookalike.v1.index_pb2 import OpaqueSearchResponse
from lookalike.v1.search_pb2 import Provenance, Timings
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, Space
from server import metrics
from server.classify_request import ClassifyInput
from server.encoding import Known
from server.merge import Hit, merged
from server.metrics import RequestTimer
from server.policy import Route
from server.query import SearchQuery
from server.shard_group import ShardResults
from server.topology import Snapshot

_LENGTHS = struct.Struct("<BI")  # Of the name of the spaces, and of the hits.


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    hits: bytes  # A SearchResponse without provenance.
    provenance: bytes  # A Provenance without the stamp.
    searched: str  # The spaces, as metrics name them: "image", "image+text".
    whole: bool  # Every shard answered: fit to be kept.

    def stamped(self, timer: RequestTimer) -> bytes:
        """The whole SearchResponse for this one call."""
        provenance = self.provenance + _stamp(timer)
        return self.hits + OpaqueSearchResponse(provenance=provenance).SerializeToString()

    def to_keep(self) -> bytes:
        """For the cache. Spaces and lengths first, so that a hit is counted and stamped without being parsed."""
        searched = self.searched.encode()
        return _LENGTHS.pack(len(searched), len(self.hits)) + searched + self.hits + self.provenance

    @classmethod
    def of_kept(cls, kept: bytes) -> SearchAnswer:
        name_bytes, hits_bytes = _LENGTHS.unpack_from(kept)
        hits = _LENGTHS.size + name_bytes
        end = hits + hits_bytes
        return cls(kept[hits:end], kept[end:], kept[_LENGTHS.size : hits].decode(), whole=True)


def ranked(query: SearchQuery, route: Route, results: ShardResults, limit: int) -> list[Hit]:
    """The best hits of the shards that answered."""
    answers = (hits for hits in results.hits if hits is not None)
    explained = len(route.spaces) if query.explain else 0
    return merged(answers, limit, max_per_shop=query.max_per_shop, explained=explained)


def answered(
    query: SearchQuery, snapshot: Snapshot, route: Route, results: ShardResults, hits: Sequence[Hit]
) -> SearchAnswer:
    """The first `limit` hits, with provenance. Raises Unavailable when coverage is below what the query accepts."""
    infos = snapshot.require_spaces(route.spaces).values()
    documents = [*map(sum, zip(*(info.documents for info in infos), strict=True))]
    provenance = Provenance(
        version=snapshot.version,
        policy=route.policy,
        documents_searched=sum(n for n, hits in zip(documents, results.hits, strict=True) if hits is not None),
        documents_total=sum(documents),
        shards_asked=len(results.hits),
        shards_answered=sum(hits is not None for hits in results.hits),
        exact=query.exact,
        degraded=degraded(snapshot, route, results),
    )
    for space, info, share in zip(route.spaces, infos, route.shares, strict=True):
        provenance.spaces.add(space=space, encoder=info.encoder, weight=share)
    for shard, answer in enumerate(results.hits):
        for plan in answer.plans if answer is not None else ():
            provenance.plans.add(shard=shard).MergeFrom(plan)
    total = provenance.documents_total
    provenance.coverage = provenance.documents_searched / total if total else 1.0
    if provenance.coverage < query.min_coverage:
        why = "; ".join(results.failures)
        raise Unavailable(f"coverage {provenance.coverage:.3f} is below {query.min_coverage:.3f}: {why}")
    explained = route.spaces if query.explain else ()
    serialized = OpaqueSearchResponse(
        hits=[hit.opaque(explained) for hit in hits[: query.limit]],
        truncated=query.min_score is not None and len(hits) > query.limit,
    ).SerializeToString()
    return SearchAnswer(
        serialized, provenance.SerializeToString(), spaces_name(route.spaces), whole=not results.failures
    )


@cache  # Of at most seven.
def spaces_name(spaces: tuple[Space.ValueType, ...]) -> str:
    """ "image+text" for both, as metrics name them."""
    return "+".join(map(space_name, spaces))


# A product encoder that learnt from an untrained image encoder has "untrained" in its name, too.
_UNTRAINED = {
    SPACE_IMAGE: "the image encoder is untrained: likeness is only of colour and rough texture",
    SPACE_PRODUCT: "the product encoder learnt from an untrained image encoder: photos tell it little",
}


def degraded(snapshot: Snapshot, route: Route, results: ShardResults) -> list[str]:
    """Every way in which an answer can be less than it could be: the one place that knows them, and counts them."""
    reasons = []
    if results.failures:
        metrics.DEGRADED.labels("shard_missing").inc()
        reasons += results.failures
    if route.lacking:
        metrics.DEGRADED.labels("vector_missing").inc()
        reasons += route.lacking
    for space in route.spaces:
        if "-untrained-" in snapshot.spaces[space].encoder:
            metrics.DEGRADED.labels("encoder_untrained").inc()
            reasons.append(_UNTRAINED.get(space) or f"the {space_name(space)} encoder is untrained")
    return reasons


def degraded_classification(subject: ClassifyInput, known: Known) -> list[str]:
    """The same for a classification."""
    reasons = []
    if known.image is None or known.text is None:
        metrics.DEGRADED.labels("half_known").inc()
        reasons.append(f"there is {'no photo' if known.image is None else 'no text'} of the product to go by")
    if subject.text is not None and known.text is None:
        reasons[-1] += ": the text encoder knows no word of what was given"
    if known.image is not None and "-untrained-" in known.image[1]:
        metrics.DEGRADED.labels("encoder_untrained").inc()
        reasons.append("the image encoder is untrained: the photo tells only of colour and rough texture")
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


def _stamp(timer: RequestTimer) -> bytes:
    """The fields of a Provenance that are of this call alone."""
    return Provenance(cached=timer.cached, timings=timings(timer)).SerializeToString()
