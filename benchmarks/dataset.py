"""Random vectors distributed like the features of a convolutional network. Seeded, any number, in chunks. No I/O.

A feature is the mean of a channel after its ReLU: not negative, and often zero. Photos belong to kinds, and kinds to
groups, of very different sizes; some photos are closer to the centre of their kind than others. So a vector here is

    unit(scale · max(0, 1.6 + projected(kind + spread · ε)) ^ 1.75)

where kinds, their groups and ε are drawn in a latent space whose variances fall by a power law.

The constants were fitted by random search to MobileNet features of photos of fashion products (`encoders/image`,
float32 export), then compared with these: see benchmarks/README.md.
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

_NOISY_CENTRES, _NOISY_CENTRE_SHARE = 2_000, 0.6  # How many; their share of the latent variance.
_NOISY_DECAY, _NOISE = 0.6, 0.8

_VECTORS, _QUERIES = 1, 2  # Streams of random numbers.


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


def noisy(count: int, queries: int, *, seed: int = 0) -> tuple[F32, F32]:
    """The same shapes, but vectors that are harder to index: a graph takes twice the time for equal recall.

    Two fifths of each vector's squared length are noise of equal variance in all 1024 dimensions; the rest lies around
    one of 2,000 centres of equal size, in 512 dimensions.
    """
    random = np.random.default_rng(seed)
    deviations = _falling(_NOISY_DECAY)
    projection = random.standard_normal((_LATENT, DIM), dtype=np.float32)
    centres = random.standard_normal((_NOISY_CENTRES, _LATENT), dtype=np.float32) * deviations
    chunks = []
    for start in range(0, count + queries, CHUNK):
        size = min(CHUNK, count + queries - start)
        spread = random.standard_normal((size, _LATENT), dtype=np.float32) * deviations
        latent = centres[random.integers(0, _NOISY_CENTRES, size)] * np.float32(_NOISY_CENTRE_SHARE**0.5)
        latent += spread * np.float32((1 - _NOISY_CENTRE_SHARE) ** 0.5)
        noise = random.standard_normal((size, DIM), dtype=np.float32) * np.float32(_NOISE)
        chunks.append(normalised(latent @ projection + noise))
    vectors = np.concatenate(chunks)
    return vectors[:count], vectors[count:]


def _falling(decay: float) -> F32:
    """(_LATENT,) deviations whose squares sum to 1."""
    falling = np.arange(1, _LATENT + 1, dtype=np.float32) ** -np.float32(decay)
    deviations: F32 = falling / np.linalg.norm(falling)
    return deviations


def _shares(count: int, zipf: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    sizes = np.arange(1, count + 1, dtype=np.float64) ** -zipf
    sizes /= sizes.sum()
    return sizes
