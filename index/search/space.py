"""The vectors of one space in one shard, and the search among them. Reads memory-mapped files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from index.backends import factory, recipe
from index.backends.filter_bitmap import FilterBitmap
from index.backends.vector_index import VectorIndex
from index.search.plan import Plan, deeper, plan
from index.search.scores import Neighbours, best, exact, scores_of
from index.storage import vectors as stored
from index.storage.manifest import IndexEntry, OperatingPoint
from index.storage.names import CODES, ROWS, VECTORS
from index.storage.vectors import StoredVectors
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

# From 20 queries on, faiss compares them with the lists' centroids by matrix product, whose roundings depend on the
# batch: smaller calls keep an answer the same in every company, and a larger batch gains only a few percent.
BATCH = 16

DevicePlacement = Callable[[VectorIndex], VectorIndex]  # Copies an index to a GPU, say.


class SpaceIndex:
    """Searches (m, dim) unit vectors. `rows` (m,) rising: the row in the shard's table that each vector belongs to.

    codes: of the same vectors; None: exact search only. May be used by many threads at a time.
    """

    def __init__(self, *, entry: IndexEntry, vectors: StoredVectors, rows: I64, codes: VectorIndex | None) -> None:
        self.entry = entry
        self.vectors = vectors
        self.rows = rows
        self.codes = codes

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])

    def vector(self, row: int) -> F32 | None:
        """The vector of a row of the shard's table, if it has one."""
        at = int(np.searchsorted(self.rows, row))
        return self.vectors[at].astype(np.float32) if at < len(self.rows) and self.rows[at] == row else None

    def positions(self, rows: I64) -> I64:
        """Of the vectors of these rows of the shard's table, as far as they have one."""
        at = np.minimum(np.searchsorted(self.rows, rows), max(0, len(self) - 1))
        return at[self.rows[at] == rows] if len(self) else np.empty(0, np.int64)

    def cosines(self, query: F32, rows: I64) -> F32:
        """With the query (dim,), of rows (c,) of the shard's table; 0 where a row has no vector."""
        if not len(self):
            return np.zeros(len(rows), dtype=np.float32)
        at = np.minimum(np.searchsorted(self.rows, rows), len(self) - 1)
        here = self.rows[at] == rows
        scores: F32 = scores_of(query[None, :], self.vectors, np.where(here, at, -1)[None, :])[0]
        return np.where(here, scores, np.float32(0))

    def search(
        self,
        queries: F32,
        k: int,
        passing: FilterBitmap | None = None,
        *,
        audit: bool = False,
        enough: int | None = None,
    ) -> list[Neighbours]:
        """The k nearest to each of the queries (n, dim), by rows of the shard's table; fewer only where fewer pass.

        passing: over the vectors here, not over the table. audit: compare with every passing vector.
        enough:  so many will do where the lists that are visited hold no more; k unless given.
        """
        return [found for found, _ in self.explained(queries, k, passing, audit=audit, enough=enough)]

    def explained(
        self,
        queries: F32,
        k: int,
        passing: FilterBitmap | None = None,
        *,
        audit: bool = False,
        enough: int | None = None,
    ) -> list[tuple[Neighbours, Plan | None]]:
        """As `search`, each with the plan that found it; None: comparing with all that pass."""
        count = len(self) if passing is None else passing.count
        k = min(k, count)
        enough = k if enough is None else min(enough, k)
        found: dict[int, tuple[Neighbours, Plan | None]] = {}
        left = [*range(len(queries))]
        tried = None if audit or self.codes is None else plan(self.entry, len(self), count, k)
        while left and tried is not None:
            for start in range(0, len(left), BATCH):
                part = left[start : start + BATCH]
                asked = queries if len(part) == len(queries) else queries[part]  # That copies.
                for i, (neighbours, near) in zip(part, self._near(asked, k, tried, passing), strict=True):
                    if near >= enough:
                        found[i] = neighbours, tried
            left = [i for i in left if i not in found]
            tried = deeper(self.entry, len(self), count, tried) if left else None
        among = passing.rows if left and passing is not None else None
        for i in left:  # No short answer hides what exists, and no filter that passes nothing near hides what is far.
            found[i] = exact(queries[i], self.vectors, k, among), None
        by_query = (found[i] for i in range(len(queries)))
        return [(Neighbours(self.rows[rows], scores), how) for (rows, scores), how in by_query]

    def _near(
        self, queries: F32, k: int, tried: Plan, passing: FilterBitmap | None
    ) -> Iterator[tuple[Neighbours, int]]:
        """The k best that pass of what a plan finds, as positions, and how many of the likeliest `depth` pass."""
        if passing is None:
            for rows, scores in self.probe(queries, tried.depth, tried.rung):
                yield Neighbours(rows[:k], scores[:k]), len(rows)
            return
        candidates = self._candidates(queries, tried.candidates, tried.rung)
        passes = passing.passes(candidates)
        for query, rows, kept in zip(queries, candidates, passes, strict=True):
            scores = scores_of(query[None, :], self.vectors, rows[None, kept])[0]
            yield best(rows[kept], scores, k), int(np.count_nonzero(kept[: tried.depth]))

    def probe(self, queries: F32, k: int, rung: OperatingPoint) -> list[Neighbours]:
        """At most k of the nearest, as positions among the vectors here: what a rung finds. At most BATCH queries."""
        candidates = self._candidates(queries, k * rung.refine_factor, rung)
        scores = scores_of(queries, self.vectors, candidates)
        # Query by query: sorting all at once takes as long again for 16, and six times as long for one.
        return [_first(row, score, k) for row, score in zip(candidates, scores, strict=True)]

    def _candidates(self, queries: F32, count: int, rung: OperatingPoint) -> I64:
        assert self.codes is not None, "a ladder comes with codes"  # noqa: S101  # for the type checker
        return self.codes.find_candidates(queries, count, rung.search_parameter)


def _first(rows: I64, scores: F32, k: int) -> Neighbours:
    """The k best; where a row is −1 there is none, and its score of −∞ comes last."""
    order = np.lexsort((rows, -scores))[:k]
    rows, scores = rows[order], scores[order]
    if len(rows) and rows[-1] < 0:
        rows, scores = rows[rows >= 0], scores[rows >= 0]
    return Neighbours(rows, scores)


def opened(
    directory: Path, entry: IndexEntry, *, documents: int, dim: int, rescore: str, place: DevicePlacement | None = None
) -> SpaceIndex:
    """Vectors and rows are mapped, codes are read into memory, and put elsewhere by `place`.

    Raises BadArtifact when a file is not as described.
    """
    vectors = stored.open_vectors(directory / VECTORS, rescore=rescore, at_random=True)
    rows = stored.open_rows(directory / ROWS)
    if vectors.shape != (documents, dim) or rows.shape != (documents,):
        raise BadArtifact(f"{directory}: not {documents} vectors of {dim} dimensions")
    made = recipe.parse_recipe(entry.recipe)
    codes = None if made is None else factory.read_index(directory / CODES, made, dim)
    if codes is not None and (codes.documents, codes.dim) != (documents, dim):
        raise BadArtifact(f"{directory / CODES}: not an index of {documents} vectors of {dim} dimensions")
    if codes is not None and place is not None:
        codes = place(codes)
    return SpaceIndex(entry=entry, vectors=vectors, rows=rows, codes=codes)
