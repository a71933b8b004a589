"""What an answer says of itself, and its bytes. Pure.

Hits and provenance are serialized once, kept and shared as bytes; each call adds its own stamp to the provenance:
whether it was cached, and its timings. No field occurs twice: not every parser merges a sub-message that does
(protobuf.js replaces the first), whatever the encoding's specification says.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from dataclasses import dataclass
from typing import cast

from lookalike.errors import Unavailable
from protos.lookalike.v1.index_pb2 import OpaqueSearchResponse
from protos.lookalike.v1.search_pb2 import Provenance, Timings
from protos.lookalike.v1.types_pb2 import Space
from server import metrics
from server.merge import merged
from server.metrics import Watch
from server.policy import space_name
from server.requests import Query
from server.shards import Gathered
from server.topology import SpaceInfo

_SPACE_AND_LENGTH = struct.Struct("<BI")


@dataclass(frozen=True, slots=True)
class SearchAnswer:
    hits: bytes  # A SearchResponse of hits alone.
    provenance: bytes  # A Provenance without the stamp.
    space: Space.ValueType
    whole: bool  # Every shard answered: fit to be kept.

    def stamped(self, watch: Watch) -> bytes:
        """The whole SearchResponse for this one call."""
        provenance = self.provenance + _stamp(watch)
        return self.hits + OpaqueSearchResponse(provenance=provenance).SerializeToString()

    def to_keep(self) -> bytes:
        """For the cache. Space and length first, so that a hit is counted and stamped without being parsed."""
        return _SPACE_AND_LENGTH.pack(self.space, len(self.hits)) + self.hits + self.provenance

    @classmethod
    def of_kept(cls, kept: bytes) -> SearchAnswer:
        space, length = _SPACE_AND_LENGTH.unpack_from(kept)
        end = _SPACE_AND_LENGTH.size + length
        return cls(kept[_SPACE_AND_LENGTH.size : end], kept[end:], cast("Space.ValueType", space), whole=True)


def answered(
    query: Query,
    version: str,
    space: Space.ValueType,
    info: SpaceInfo,
    gathered: Gathered,
    *,
    without: Collection[str],
) -> SearchAnswer:
    """The merged answer with its provenance. Raises Unavailable when coverage is below what the query accepts."""
    provenance = Provenance(
        version=version,
        space=space,
        encoder=info.encoder,
        documents_searched=sum(n for n, hits in zip(info.documents, gathered.hits, strict=True) if hits is not None),
        documents_total=sum(info.documents),
        shards_asked=len(gathered.hits),
        shards_answered=sum(hits is not None for hits in gathered.hits),
        exact=query.exact,
        degraded=degraded(space, info, gathered),
    )
    total = provenance.documents_total
    provenance.coverage = provenance.documents_searched / total if total else 1.0
    if provenance.coverage < query.min_coverage:
        why = "; ".join(gathered.failures)
        raise Unavailable(f"coverage {provenance.coverage:.3f} is below {query.min_coverage:.3f}: {why}")
    hits = merged((hits for hits in gathered.hits if hits is not None), query.limit, without)
    serialized = OpaqueSearchResponse(hits=hits).SerializeToString()
    return SearchAnswer(serialized, provenance.SerializeToString(), space, whole=not gathered.failures)


def degraded(space: Space.ValueType, info: SpaceInfo, gathered: Gathered) -> list[str]:
    """Every way in which an answer can be less than it could be: the one place that knows them, and counts them."""
    reasons = []
    if gathered.failures:
        metrics.DEGRADED.labels("shard_missing").inc()
        reasons += gathered.failures
    if "-untrained-" in info.encoder:
        metrics.DEGRADED.labels("encoder_untrained").inc()
        reasons.append(f"the {space_name(space)} encoder is untrained: likeness is only of colour and rough texture")
    return reasons


def _stamp(watch: Watch) -> bytes:
    """The fields of a Provenance that are of this call alone."""
    stages = watch.stages
    timings = Timings(
        cache_s=stages.get("cache", 0.0),
        lookup_s=stages.get("lookup", 0.0),
        encode_s=stages.get("encode", 0.0),
        search_s=stages.get("search", 0.0),
        total_s=watch.elapsed_s(),
    )
    return Provenance(cached=watch.cached, timings=timings).SerializeToString()
