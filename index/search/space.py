"""The vectors of one space in one shard, and the search among them. Reads memory-mapped files."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from index.backends import factory, recipe
from index.backends.filter_bitmap import FilterBitmap
from index.backends.vector_index import VectorIndex
from index.search.cost import UNLIMITED, WorkLimit
from index.search.plan import Plan, first_plan, next_plan
from index.search.scores import (
    CHUNK,
    Neighbours,
    best_candidates,
    exact_candidates,
    exact_search,
    inner_products,
    pass_only,
)
from index.storage import vectors as stored
from index.storage.names import ANN_INDEX, ROWS, VECTORS
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.releases.manifest import IndexEntry, OperatingPoint
from lookalike.runtime import tracing
from lookalike.vectors import F32, I64

# Queries in one call of an ANN backend. From 20 queries on, faiss compares them with the lists' centroids by matrix
# product, whose rounding depends on the batch: with smaller calls a result does not depend on the other queries, and a
# larger batch gains only a few percent.
BATCH = 16

_PLAIN_K = 10

# A product of matrices compares several queries with all vectors, in the time that one takes with this share of them.
_MAX_PRODUCT_SHARE = 2

DevicePlacement = Callable[[VectorIndex], VectorIndex]  # Moves an index to a device, such as a GPU.


class SpaceIndex:
    """Searches (m, dim) unit vectors. Thread-safe.

    rows:      (m,) rising: the row of the shard's table that each vector belongs to.
    ann_index: the ANN index of the same vectors; None: exact search only.
    """

    def __init__(self, *, entry: IndexEntry, vectors: StoredVectors, rows: I64, ann_index: VectorIndex | None) -> None:
        self.entry = entry
        self.vectors = vectors
        self.rows = rows
        self.ann_index = ann_index

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    @cached_property
    def _rows(self) -> memoryview:
        """`rows`: one at a time, a bisection takes a sixth of the time that numpy's takes."""
        return self.rows.data

    @cached_property
    def _plain_components(self) -> float:
        """The work of a search for 10 without a filter: of everything, where no ANN index makes it less."""
        count = len(self)
        plan = None if self.ann_index is None else first_plan(self.entry, count, count, _PLAIN_K)
        return (count if plan is None else plan.comparisons(count, count)) * self.dim

    def allows(self, limit: WorkLimit, comparisons: float) -> bool:
        """Whether a limit allows that many comparisons, or an ordinary search of this space needs half as many."""
        return comparisons * self.dim <= max(limit.components, 2 * self._plain_components)

    def vector(self, row: int) -> F32 | None:
        """The vector of a row of the shard's table, if it has one."""
        if (position := self._position(row)) is None:
            return None
        vector: F32 = self.vectors[position].astype(np.float32)
        return vector

    def has(self, row: int) -> bool:
        """Whether a row of the shard's table has a vector."""
        return self._position(row) is not None

    def _position(self, row: int) -> int | None:
        rows = self._rows
        if row < len(rows) and rows[row] == row:  # All rows until there have one.
            return row
        position = bisect_left(rows, row)
        return position if position < len(rows) and rows[position] == row else None

    def positions(self, rows: I64) -> I64:
        """Positions of the vectors of these rows of the shard's table; rows without a vector are left out."""
        positions = np.minimum(np.searchsorted(self.rows, rows), max(0, len(self) - 1))
        return positions[self.rows[positions] == rows] if len(self) else np.empty(0, np.int64)

    def cosines(self, query: F32, rows: I64) -> F32:
        """Cosines (c,) of the query (dim,) with rows (c,) of the shard's table; 0 where a row has no vector."""
        if not len(self):
            return np.zeros(len(rows), dtype=np.float32)
        positions = np.minimum(np.searchsorted(self.rows, rows), len(self) - 1)
        has_vector = self.rows[positions] == rows
        scores: F32 = inner_products(query[None, :], self.vectors, np.where(has_vector, positions, -1)[None, :])[0]
        return np.where(has_vector, scores, np.float32(0))

    def search(
        self,
        queries: F32,
        k: int,
        bitmap: FilterBitmap | None = None,
        *,
        exact: bool = False,
        min_results: int | None = None,
    ) -> list[Neighbours]:
        """The k nearest to each of the queries (n, dim), as rows of the shard's table; fewer only where fewer pass.

        bitmap:      the vectors of this space (not the rows of the table) that pass the filter; None: all.
        exact:       compare with every vector that passes.
        min_results: accept this many results, rather than k, if the ANN index finds no more; default: k.
        """
        results = self.search_with_plans(queries, k, bitmap, exact=exact, min_results=min_results)
        return [result[0] for result in results if result is not None]  # Without a limit none is None.

    def search_with_plans(
        self,
        queries: F32,
        k: int,
        bitmap: FilterBitmap | None = None,
        *,
        exact: bool = False,
        min_results: int | None = None,
        limit: WorkLimit = UNLIMITED,
    ) -> list[tuple[Neighbours, Plan | None] | None]:
        """As `search`, with the plan that found each result (None: exact search); None where `limit` allows no result.

        Raises what the limit's check raises.
        """
        count = len(self) if bitmap is None else bitmap.count
        k = min(k, count)
        min_results = k if min_results is None else min(min_results, k)
        results: list[tuple[Neighbours, Plan | None] | None] = [None] * len(queries)
        pending: Sequence[int] = range(len(queries))
        plan = None if exact or self.ann_index is None else first_plan(self.entry, len(self), count, k)
        while pending and plan is not None and self.allows(limit, plan.comparisons(len(self), count)):
            unfilled = []
            for start in range(0, len(pending), BATCH):
                limit.check()
                part = pending[start : start + BATCH]
                batch = queries if len(part) == len(queries) else queries[part]  # Indexing copies.
                neighbours, passing_counts = self._approximate(batch, k, plan, bitmap)
                for i, found, passing_count in zip(part, neighbours, passing_counts, strict=True):
                    if passing_count >= min_results:
                        results[i] = self.in_table(found), plan
                    else:
                        unfilled.append(i)
            pending = unfilled
            plan = next_plan(self.entry, len(self), count, plan) if pending else None
        allowed = limit.allows(count * self.dim) if exact else self.allows(limit, count)
        if pending and plan is None and allowed:  # Few vectors near these queries pass: compare all that do.
            batch = queries if len(pending) == len(queries) else queries[pending]
            with tracing.span("exact") as span:
                span.set(vectors=count)
                for i, found in zip(pending, self._exact(batch, k, bitmap, limit), strict=True):
                    results[i] = self.in_table(found), None
        return results

    def in_table(self, neighbours: Neighbours) -> Neighbours:
        """With the rows of the shard's table, rather than positions."""
        return neighbours if self._has_all_rows else Neighbours(self.rows[neighbours.rows], neighbours.scores)

    @cached_property
    def _has_all_rows(self) -> bool:
        """Whether every row of the table up to the last one has a vector, so that it is the vector's position."""
        return not len(self.rows) or int(self.rows[-1]) == len(self.rows) - 1

    def _exact(self, queries: F32, k: int, bitmap: FilterBitmap | None, limit: WorkLimit) -> Iterable[Neighbours]:
        """The k best positions that pass, for each query."""
        total, count = len(self), len(self) if bitmap is None else bitmap.count
        if k and len(queries) > 1 and total <= CHUNK and total < _MAX_PRODUCT_SHARE * count:
            limit.check()
            mask = None if bitmap is None or count == total else bitmap.mask
            for start in range(0, len(queries), BATCH):
                part = queries[start : start + BATCH]
                yield from best_candidates(part, self.vectors, exact_candidates(part, self.vectors, k, mask), k)
            return
        among = None if bitmap is None else bitmap.rows
        for query in queries:
            yield exact_search(query, self.vectors, k, among, limit=limit)

    def _approximate(
        self, queries: F32, k: int, plan: Plan, bitmap: FilterBitmap | None
    ) -> tuple[list[Neighbours], list[int]]:
        """Filtered approximate search: for each query the k best positions that pass, and how many candidates passed.

        Counts only the `depth` likeliest candidates.
        """
        with tracing.span("ann") as span:
            span.set(depth=plan.depth, search_parameter=plan.operating_point.search_parameter)
            candidates = self._candidates(queries, plan.candidates, plan.operating_point)
        with tracing.span("rescore") as span:
            span.set(candidates=plan.candidates)
            if bitmap is None:
                found = best_candidates(queries, self.vectors, np.sort(candidates, axis=1), k)
                return found, [len(each.rows) for each in found]
            passes = bitmap.passes(candidates)
            counts = np.count_nonzero(passes[:, : plan.depth], axis=1)
            return best_candidates(queries, self.vectors, pass_only(candidates, passes), k), counts.tolist()

    def probe(self, queries: F32, k: int, point: OperatingPoint) -> list[Neighbours]:
        """Unfiltered approximate search at one operating point: at most k positions each. At most BATCH queries."""
        candidates = np.sort(self._candidates(queries, k * point.refine_factor, point), axis=1)
        return best_candidates(queries, self.vectors, candidates, k)

    def _candidates(self, queries: F32, count: int, point: OperatingPoint) -> I64:
        assert self.ann_index is not None, "no operating points without an ANN index"  # noqa: S101  # for the type checker
        return self.ann_index.find_candidates(queries, count, point.search_parameter)


def open_space(
    directory: Path,
    entry: IndexEntry,
    *,
    documents: int,
    dim: int,
    rescore: str,
    placement: DevicePlacement | None = None,
) -> SpaceIndex:
    """Map vectors and rows; read the ANN index into memory, and move it to a device with `placement`.

    Raises BadArtifact when a file is not as described.
    """
    vectors = stored.open_vectors(directory / VECTORS, rescore=rescore, at_random=True)
    rows = stored.open_rows(directory / ROWS)
    if vectors.shape != (documents, dim) or rows.shape != (documents,):
        raise BadArtifact(
            f"{directory}: has {len(rows)} rows and vectors of shape {vectors.shape}, "
            f"expected {documents} vectors of {dim} dimensions"
        )
    parsed_recipe = recipe.parse_recipe(entry.recipe)
    ann_index = None if parsed_recipe is None else factory.read_index(directory / ANN_INDEX, parsed_recipe, dim)
    if ann_index is not None and (ann_index.documents, ann_index.dim) != (documents, dim):
        raise BadArtifact(
            f"{directory / ANN_INDEX}: an index of {ann_index.documents} vectors of {ann_index.dim} dimensions, "
            f"expected {documents} of {dim}"
        )
    if ann_index is not None and placement is not None:
        ann_index = placement(ann_index)
    return SpaceIndex(entry=entry, vectors=vectors, rows=rows, ann_index=ann_index)
