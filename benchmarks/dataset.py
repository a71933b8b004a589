"""Random vectors distributed like the features of a convolutional network. Seeded, any number, in chunks. No I/O.

A feature is the mean of a channel after its ReLU: not negative, and often zero. Photos belong to kinds, and kinds to
groups, of very different sizes; some photos are closer to the centre of their kind than others. So a vector here is

    unit(scale · max(0, 1.6 + projected(kind + spread · ε)) ^ 1.75)

where kinds, their groups and ε are drawn in a latent space whose variances fall by a power law.

The constants were fitted by random search to MobileNet features of photos of fashion products (`encoders/image`,
float32 export), then compared with these: see benchmarks/README.md.

`overlapping` draws a harder set, for which see there.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lookalike.vectors import F32, I64, normalised

DIM = 1024
CHUNK = 1 << 13  # Vectors drawn at a time: 200 MB with intermediate arrays.

_LATENT = 512
_GROUPS, _KINDS = 40, 4000
_GROUP_ZIPF, _KIND_ZIPF = 1.0, 0.7  # Sizes fall with the rank to this power.
_GROUP_SHARE = 0.6  # Of the variance of a kind, shared by its group.
_KIND_DECAY, _SPREAD_DECAY = 0.6, 0.5  # Deviations in the latent space fall with the direction's rank to this power.
_SPREAD, _SPREAD_DEVIATION = 0.6, 0.25  # Of photos around their kind; deviation of its logarithm.
_OFFSET, _POWER = 1.6, 1.75  # Larger: fewer channels are 0; larger: longer tails.
_SCALE_DEVIATION = 0.65  # Deviation of the logarithm of a channel's scale.

_VECTORS, _QUERIES = 1, 2  # Streams of random numbers.

# Of the harder set. At 100,000 vectors the recall@10 of faiss' HNSW32 at efSearch 64 is .965 with 28 directions, .941
# with 32; one of 1,024 inverted lists holds few of a query's neighbours: 48 lists hold .74 of them.
_CENTRES, _DIRECTIONS, _CENTRE_SPREAD = 1000, 29, 3.0


class CnnLike:
    """A seeded generator of vectors: a longer sequence begins with the shorter one of the same seed."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        random = np.random.default_rng(seed)
        kind, spread = _falling(_KIND_DECAY), _falling(_SPREAD_DECAY)
        projection = random.standard_normal((_LATENT, DIM), dtype=np.float32)
        groups = random.standard_normal((_GROUPS, _LATENT), dtype=np.float32) * kind
        group_of = random.choice(_GROUPS, size=_KINDS, p=_shares(_GROUPS, _GROUP_ZIPF))
        kind_parts = random.standard_normal((_KINDS, _LATENT), dtype=np.float32) * kind
        kinds = (
            np.sqrt(np.float32(_GROUP_SHARE)) * groups[group_of] + np.sqrt(np.float32(1 - _GROUP_SHARE)) * kind_parts
        )
        unit = np.float32(1 / np.sqrt(1 + _SPREAD**2))
        self._kinds = kinds @ projection * unit
        self._spread = spread[:, None] * projection * unit
        self._shares = random.permutation(_shares(_KINDS, _KIND_ZIPF))
        self._scales = np.exp(np.float32(_SCALE_DEVIATION) * random.standard_normal(DIM, dtype=np.float32))

    def vectors(self, count: int) -> Iterator[F32]:
        """`count` vectors in chunks of (≤ CHUNK, 1024) float32, rows of unit norm."""
        for number, start in enumerate(range(0, count, CHUNK)):
            yield self._draw([self._seed, _VECTORS, number])[: count - start]

    def queries(self, count: int) -> F32:
        """(count, 1024) other vectors of the same distribution; at most CHUNK."""
        return self._draw([self._seed, _QUERIES])[:count]

    def _draw(self, seed: list[int]) -> F32:
        """Draw CHUNK vectors: always a whole chunk, so that vectors do not depend on the count."""
        random = np.random.default_rng(seed)
        kinds: I64 = random.choice(_KINDS, size=CHUNK, p=self._shares)
        spreads = np.float32(_SPREAD) * np.exp(
            np.float32(_SPREAD_DEVIATION) * random.standard_normal((CHUNK, 1), dtype=np.float32)
        )
        signals = (spreads * random.standard_normal((CHUNK, _LATENT), dtype=np.float32)) @ self._spread
        signals += self._kinds[kinds]
        signals += np.float32(_OFFSET)
        np.maximum(signals, 0, out=signals)
        np.power(signals, np.float32(_POWER), out=signals)
        signals *= self._scales
        return normalised(signals)


def cnn_like(count: int, queries: int, *, seed: int = 0) -> tuple[F32, F32]:
    """(count, 1024) vectors and (queries, 1024) others of the same distribution, float32, unit norm."""
    dataset = CnnLike(seed)
    return np.concatenate(list(dataset.vectors(count))), dataset.queries(queries)


def overlapping(count: int, queries: int, *, seed: int = 0) -> tuple[F32, F32]:
    """(count, 1024) vectors and (queries, 1024) others, float32, unit norm: clusters that overlap in few directions.

    A vector is a centre plus three times as much noise, in 29 directions that all clusters share. Neighbours of a query
    come from many clusters, so inverted lists hardly help, and a graph needs more steps than with `cnn_like`.
    """
    random = np.random.default_rng([seed, 0])
    directions = random.standard_normal((_DIRECTIONS, DIM), dtype=np.float32) / np.sqrt(np.float32(_DIRECTIONS))
    directions *= np.float32(_CENTRE_SPREAD)
    centres = random.standard_normal((_CENTRES, DIM), dtype=np.float32)

    def draw(stream: int, count: int) -> F32:
        chunks = []
        for number, start in enumerate(range(0, count, CHUNK)):
            random = np.random.default_rng([seed, stream, number])
            of_centre = random.integers(_CENTRES, size=CHUNK)
            noise = random.standard_normal((CHUNK, _DIRECTIONS), dtype=np.float32)
            chunks.append(normalised(centres[of_centre] + noise @ directions)[: count - start])
        return np.concatenate(chunks)

    return draw(_VECTORS, count), draw(_QUERIES, queries)


def _falling(decay: float) -> F32:
    """(_LATENT,) deviations whose squares sum to 1."""
    falling = np.arange(1, _LATENT + 1, dtype=np.float32) ** -np.float32(decay)
    deviations: F32 = falling / np.linalg.norm(falling)
    return deviations


def _shares(count: int, zipf: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    sizes = np.arange(1, count + 1, dtype=np.float64) ** -zipf
    sizes /= sizes.sum()
    return sizes
