"""Vectors like those of a convolutional network: clustered, with low-rank noise, of unit norm. Pure, seeded."""

from __future__ import annotations

import numpy as np

from lookalike.vectors import F32, normalised

DIM = 1024


def clustered(count: int, queries: int, *, seed: int = 0, clusters: int = 1000, rank: int = 48) -> tuple[F32, F32]:
    """(count, 1024) vectors and (queries, 1024) others of the same making, float32, unit norm.

    A vector is its cluster's centre, plus noise in `rank` directions that all share, plus a little in every direction.
    """
    random = np.random.default_rng(seed)
    centres = random.standard_normal((clusters, DIM), dtype=np.float32)
    directions = random.standard_normal((rank, DIM), dtype=np.float32)

    def drawn(n: int) -> F32:
        vectors = centres[random.integers(clusters, size=n)]
        vectors += random.standard_normal((n, rank), dtype=np.float32) @ directions * np.float32(0.7 / rank**0.5)
        vectors += np.float32(0.2) * random.standard_normal((n, DIM), dtype=np.float32)
        return normalised(vectors)

    return drawn(count), drawn(queries)
