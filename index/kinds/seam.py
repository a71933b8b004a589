"""The seam between a search and what finds its candidates. Pure: a Protocol."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

from index.storage.vectors import Stored
from lookalike.vectors import F32, I64


class Codes(Protocol):
    """A compressed form of (documents, dim) unit vectors. Never changes; may be searched by many threads at a time.

    Its scores are approximate and stay inside: whoever asks for candidates compares them again by their full vectors.
    `search_parameter` is the kind's own measure of how hard it looks: lists visited, nodes kept, or how far a graph is explored.
    """

    documents: int
    dim: int
    factors: tuple[int, ...]  # Candidates for each result that are worth trying, rising.

    def candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        """(n, count) positions of likely neighbours, the likeliest first, −1 where fewer were found.

        At most 16 queries; each one's answer is that it gets alone.
        """

    def efforts(self, depth: int) -> Iterable[int]:
        """What to try when the `depth` nearest are wanted, rising."""

    def cost(self, search_parameter: int) -> float:
        """About as much time as comparing a query with so many full vectors."""

    def refilled(self, vectors: Stored) -> Codes:
        """Codes of other vectors (m, dim), possibly memory-mapped, by what was learnt from these; takes one core."""

    def ram_bytes(self) -> int:
        """All that it keeps in memory: codes, ids, graphs, centroids, matrices."""

    def write(self, path: Path) -> None:
        """To a file, or to a directory of files."""
