"""What tests of updates share: an image encoder without a server, and what an index holds. Reads files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from encoders.types import Embeddings
from index.kinds.engine import wide
from index.serving import loaded
from index.storage import version
from lookalike.spaces import space_name
from lookalike.vectors import F32, normalised
from pipeline.encoding import Encode, Pixels


class ImageModel:
    """A fake encoder: a photo's colours on a grid of 4 x 4. Counts photos; fails when told to."""

    def __init__(self) -> None:
        self.photos = 0
        self.fails_after = 10**9

    async def encode(self, pixels: Pixels) -> Embeddings:
        if self.photos + len(pixels) > self.fails_after:
            raise RuntimeError("pulled the plug")
        self.photos += len(pixels)
        grid = pixels.reshape(len(pixels), 4, 56, 4, 56, 3).mean(axis=(2, 4), dtype=np.float32)
        vectors = normalised(grid.reshape(len(pixels), -1) - 100)
        return Embeddings(vectors=vectors, encoder="fake-000000000001")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[Encode]:
        yield self.encode


def indexed(location: Path) -> dict[str, F32]:
    """Of the version that serves, the vectors of all shards, by space; each finite and of unit norm."""
    found: dict[str, list[F32]] = {}
    for number in range(version.read(location, version.current(location)).shards):
        for space, searched in loaded.opened(location, number).base.spaces.items():
            found.setdefault(space_name(space), []).append(wide(searched.vectors))
    vectors = {name: np.concatenate(parts) for name, parts in found.items()}
    for each in vectors.values():
        np.testing.assert_allclose(np.linalg.norm(each, axis=1), 1, atol=1e-5)  # NaN is not close to 1.
    return vectors
