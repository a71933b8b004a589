"""Groups of equal vectors, such as those of products that share a photo: a graph holds one node for each group. Pure.

In a graph, equal vectors crowd out the links that lead away from them, and some of them are reached by no link.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
import numpy.typing as npt

from index.backends import faiss_support
from index.storage.vectors import StoredVectors
from lookalike.vectors import I64

I32 = npt.NDArray[np.int32]


def group_equal_vectors(vectors: StoredVectors) -> I32:
    """(m,): the group of each vector, numbered by first occurrence, so that distinct vectors give 0 .. m - 1."""
    groups: dict[bytes, int] = {}
    digests = (
        blake2b(vector, digest_size=16).digest() for chunk in faiss_support.float32_chunks(vectors) for vector in chunk
    )
    return np.fromiter((groups.setdefault(digest, len(groups)) for digest in digests), np.int32, len(vectors))


class DuplicateGroups:
    """The positions of the vectors in each group."""

    def __init__(self, group_of: I32) -> None:
        """group_of: (m,), as `group_equal_vectors` returns it."""
        self.group_of = group_of
        self._members = np.argsort(group_of, kind="stable").astype(np.int32)
        self._starts = np.concatenate(([0], np.cumsum(np.bincount(group_of)))).astype(np.int32)

    @property
    def first_positions(self) -> I32:
        """(groups,): the first vector of each."""
        firsts: I32 = self._members[self._starts[:-1]]
        return firsts

    def ram_bytes(self) -> int:
        return self.group_of.nbytes + self._members.nbytes + self._starts.nbytes

    def expand(self, groups: I64, count: int) -> I64:
        """(n, count): the members of each group in the place of its number; the rest is cut off. −1 stays."""
        positions = np.full((len(groups), count), -1, dtype=np.int64)
        for row, out in zip(groups, positions, strict=True):
            valid = row[row >= 0]
            starts = self._starts[valid]
            sizes = self._starts[valid + 1] - starts
            shifts = np.repeat(starts - np.cumsum(sizes) + sizes, sizes)[:count]
            out[: len(shifts)] = self._members[shifts + np.arange(len(shifts))]
        return positions
