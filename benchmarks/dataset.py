"""Vectors that lie as those of a convolutional network do. Seeded; as many as wanted, a piece at a time.

A feature is the mean of what a channel does after its ReLU: not negative, and often nothing. Photos are of kinds, kinds
of groups, of very different sizes; some photos of a kind are nearer to its middle than others. So a vector here is

    unit(scale · max(0, 1.6 + projected(kind + spread · ε)) ^ 1.75)

where kinds, their groups and ε are drawn in a latent space whose variances fall by a power law.

The constants were fitted by random search to what was measured on MobileNet features of photos of fashion products
(`encoders/image`, float32 export), then looked at beside those: benchmarks/README.md has the comparison.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from lookalike.vectors import F32, I64, normalised

DIM = 1024
PIECE = 1 << 13  # Vectors drawn at a time: 200 MB with all that they are made of.

_LATENT = 512
_GROUPS, _KINDS = 40, 4000
_GROUP_ZIPF, _KIND_ZIPF = 1.0, 0.7  # Sizes fall with the rank to this power.
_IN_GROUP = 0.6  # Of the variance of a kind: what its whole group shares.
_KIND_DECAY, _SPREAD_DECAY = 0.6, 0.5  # Deviations in the latent space fall with the direction's rank to this power.
_SPREAD, _SPREADS_DIFFER = 0.6, 0.25  # Of a photo around its kind, of unit variance; how that differs (of logarithms).
_ACTIVE, _POWER = 1.6, 1.75  # The greater, the fewer channels are 0; the greater, the longer their tails.
_CHANNELS_DIFFER = 0.65  # Deviation of the logarithm of a channel's scale.

_VECTORS, _QUERIES = 1, 2  # Streams of random numbers.


class CnnLike:
    """The same seed gives the same vectors, however many are asked for: a longer sequence begins with the shorter."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        random = np.random.default_rng(seed)
        kind, spread = _falling(_KIND_DECAY), _falling(_SPREAD_DECAY)
        projection = random.standard_normal((_LATENT, DIM), dtype=np.float32)
        groups = random.standard_normal((_GROUPS, _LATENT), dtype=np.float32) * kind
        group_of = random.choice(_GROUPS, size=_KINDS, p=_shares(_GROUPS, _GROUP_ZIPF))
        own = random.standard_normal((_KINDS, _LATENT), dtype=np.float32) * kind
        kinds = np.sqrt(np.float32(_IN_GROUP)) * groups[group_of] + np.sqrt(np.float32(1 - _IN_GROUP)) * own
        unit = np.float32(1 / np.sqrt(1 + _SPREAD**2))
        self._kinds = kinds @ projection * unit
        self._spread = spread[:, None] * projection * unit
        self._shares = random.permutation(_shares(_KINDS, _KIND_ZIPF))
        self._scales = np.exp(np.float32(_CHANNELS_DIFFER) * random.standard_normal(DIM, dtype=np.float32))

    def vectors(self, count: int) -> Iterator[F32]:
        """`count` vectors in pieces of (≤ PIECE, 1024) float32, rows of unit norm."""
        for number, start in enumerate(range(0, count, PIECE)):
            yield self._drawn([self._seed, _VECTORS, number])[: count - start]

    def queries(self, count: int) -> F32:
        """(count, 1024) others of the same making; at most PIECE."""
        return self._drawn([self._seed, _QUERIES])[:count]

    def _drawn(self, seed: list[int]) -> F32:
        """PIECE vectors; all of them, since a prefix of random numbers is not the numbers of a prefix."""
        random = np.random.default_rng(seed)
        kinds: I64 = random.choice(_KINDS, size=PIECE, p=self._shares)
        spreads = np.float32(_SPREAD) * np.exp(
            np.float32(_SPREADS_DIFFER) * random.standard_normal((PIECE, 1), dtype=np.float32)
        )
        signals = (spreads * random.standard_normal((PIECE, _LATENT), dtype=np.float32)) @ self._spread
        signals += self._kinds[kinds]
        signals += np.float32(_ACTIVE)
        np.maximum(signals, 0, out=signals)
        np.power(signals, np.float32(_POWER), out=signals)
        signals *= self._scales
        return normalised(signals)


def cnn_like(count: int, queries: int, *, seed: int = 0) -> tuple[F32, F32]:
    """(count, 1024) vectors and (queries, 1024) others of the same making, float32, unit norm."""
    made = CnnLike(seed)
    return np.concatenate(list(made.vectors(count))), made.queries(queries)


def _falling(decay: float) -> F32:
    """(_LATENT,) deviations whose squares sum to 1."""
    falling = np.arange(1, _LATENT + 1, dtype=np.float32) ** -np.float32(decay)
    deviations: F32 = falling / np.linalg.norm(falling)
    return deviations


def _shares(count: int, zipf: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    sizes = np.arange(1, count + 1, dtype=np.float64) ** -zipf
    sizes /= sizes.sum()
    return sizes
