"""Search two segments through one ANN index over the vectors of both. Reads memory-mapped files.

The effort of inverted lists lies in finding the lists; vectors of a second segment in the same lists cost little more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from index.backends.vector_index import VectorIndex
from index.search.cost import WorkLimit
from index.search.plan import Plan, first_plan
from index.search.scores import Neighbours, best_candidates, pass_only
from index.search.segment import SearchTrace, Segment, SegmentHits
from index.search.space import BATCH
from lookalike.runtime import tracing
from lookalike.shard_query import ShardQuery
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64

# How often a vector of the second segment counts for the depth: lists and codes, not trained on it, find it less often.
# With 1,600 such beside 10,400, recall@10 was .961 where each counts once, .971 where it counts twice.
_UNTRAINED = 2

HitsOfTwo = tuple[SegmentHits, SegmentHits]


class JointSearch:
    """The search of two segments.

    ann_indexes: by space; each has the vectors of the first segment at their positions, then those of the second.
    """

    def __init__(self, first: Segment, second: Segment, ann_indexes: Mapping[Space.ValueType, VectorIndex]) -> None:
        self._segments = (first, second)
        self._ann_indexes = ann_indexes

    def nearest(self, queries: Sequence[ShardQuery], limit: WorkLimit) -> list[HitsOfTwo | None]:
        """For each query the k best of each segment, among them the k best of both; None: search them one by one.

        None is the answer for several spaces, for an exact search or one that should be, and where too few pass.
        """
        batches: dict[tuple[Space.ValueType, bytes, int], list[int]] = {}
        for i, query in enumerate(queries):
            (number, *others) = query.vectors
            if number in self._ann_indexes and not others and not query.exact:
                batches.setdefault((number, query.filter, query.k), []).append(i)
        results: list[HitsOfTwo | None] = [None] * len(queries)
        for (number, condition, k), members in batches.items():
            for start in range(0, len(members), BATCH):
                part = members[start : start + BATCH]
                vectors = np.stack([queries[i].vectors[number] for i in part])
                for i, hits in zip(part, self._search(number, condition, k, vectors, limit), strict=True):
                    results[i] = hits
        return results

    def _search(
        self, number: Space.ValueType, condition: bytes, k: int, queries: F32, limit: WorkLimit
    ) -> Sequence[HitsOfTwo | None]:
        spaces = [segment.spaces[number] for segment in self._segments]
        bitmaps = [segment.bitmap(number, condition) for segment in self._segments]
        counts = [len(space) if bitmap is None else bitmap.count for space, bitmap in zip(spaces, bitmaps, strict=True)]
        total, matching, k = sum(map(len, spaces)), sum(counts), min(k, sum(counts))
        plan = first_plan(spaces[0].entry, len(spaces[0]) + _UNTRAINED * len(spaces[1]), matching, k)
        if plan is None or not spaces[0].allows(limit, plan.comparisons(total, matching)):
            return [None] * len(queries)
        limit.check()
        candidates = self._find(number, queries, plan)
        found: list[Sequence[Neighbours]] = []
        passing_counts, start = np.zeros(len(queries), dtype=np.int64), 0
        for space, bitmap in zip(spaces, bitmaps, strict=True):
            positions = candidates - start
            passes = (positions >= 0) & (positions < len(space))
            if bitmap is not None:
                passes &= bitmap.passes(np.where(passes, positions, -1))
            passing_counts += np.count_nonzero(passes[:, : plan.depth], axis=1)
            best = best_candidates(queries, space.vectors, pass_only(positions, passes), k)
            found.append([space.in_table(neighbours) for neighbours in best])
            start += len(space)
        first_trace, second_trace = (
            (SearchTrace(number, len(space), count, spaces[0].entry.recipe, plan),)
            for space, count in zip(spaces, counts, strict=True)
        )
        return [
            (SegmentHits(*first, first_trace), SegmentHits(*second, second_trace)) if passing >= k else None
            for first, second, passing in zip(found[0], found[1], passing_counts.tolist(), strict=True)
        ]

    def _find(self, number: Space.ValueType, queries: F32, plan: Plan) -> I64:
        point = plan.operating_point
        with tracing.span("ann") as span:
            span.set(depth=plan.depth, search_parameter=point.search_parameter)
            return self._ann_indexes[number].find_candidates(queries, plan.candidates, point.search_parameter)
