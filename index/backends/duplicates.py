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
        starts, width = self._starts[groups], groups.shape[1]
        sizes = self._starts[groups + 1] - starts  # Not 1 where a group is −1.
        positions = np.full((len(groups), max(count, width)), -1, dtype=np.int64)
        positions[:, :width] = self._members[np.minimum(starts, len(self._members) - 1)]
        for i in np.flatnonzero((sizes != 1).any(axis=1)):
            valid = groups[i] >= 0
            positions[i] = -1
            members = self._concatenated(starts[i][valid], sizes[i][valid])[:count]
            positions[i, : len(members)] = members
        return positions[:, :count]

    def _concatenated(self, starts: I32, sizes: I32) -> I32:
        """The members of several groups, one group after the other."""
        ends = np.cumsum(sizes)
        members: I32 = self._members[np.repeat(starts - ends + sizes, sizes) + np.arange(sizes.sum())]
        return members
