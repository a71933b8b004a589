"""Helpers for tests of updates: a fake image encoder, and a reader of an index's vectors. Reads files."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np

from encoders.types import Embeddings
from index.backends.faiss_support import as_float32
from index.serving import shard_version
from lookalike.releases import version
from lookalike.spaces import space_name
from lookalike.vectors import F32, normalised
from pipeline.image_encoding import PhotoEncoder, Pixels
from pipeline.update.make import make_version
from pipeline.update.options import UpdateOptions
from pipeline.update.report import UpdateReport

INPUT_PX = 64


class ImageModel:
    """A fake encoder: the mean colours of a 4 x 4 grid. Counts photos; fails after `fails_after` of them."""

    def __init__(self) -> None:
        self.photos = 0
        self.fails_after = 10**9

    async def encode(self, pixels: Pixels) -> Embeddings:
        if self.photos + len(pixels) > self.fails_after:
            raise RuntimeError("pulled the plug")
        self.photos += len(pixels)
        grid = pixels.reshape(len(pixels), 4, INPUT_PX // 4, 4, INPUT_PX // 4, 3).mean(axis=(2, 4), dtype=np.float32)
        vectors = normalised(grid.reshape(len(pixels), -1) - 100)
        return Embeddings(vectors=vectors, encoder="fake-000000000001")

    @asynccontextmanager
    async def connected(self) -> AsyncIterator[PhotoEncoder]:
        yield PhotoEncoder(encode=self.encode, input_px=INPUT_PX)


async def update(options: UpdateOptions) -> UpdateReport:
    """Build a version and let it serve, without the steps between."""
    report = await make_version(options)
    version.make_current(options.location, report.version)
    return report


def catalogue_of(options: UpdateOptions) -> Path:
    """The directory that an update reads."""
    assert options.catalogue is not None
    return options.catalogue


def read_index_vectors(location: Path) -> dict[str, F32]:
    """The vectors of all shards of the CURRENT version by space; checks that they are finite and of unit norm."""
    parts_by_space: dict[str, list[F32]] = {}
    for number in range(version.read_manifest(location, version.read_current(location)).shards):
        for space, vector_space in shard_version.open_shard(location, number).base.spaces.items():
            parts_by_space.setdefault(space_name(space), []).append(as_float32(vector_space.vectors))
    vectors = {name: np.concatenate(parts) for name, parts in parts_by_space.items()}
    for space_vectors in vectors.values():
        np.testing.assert_allclose(np.linalg.norm(space_vectors, axis=1), 1, atol=1e-5)  # NaN is not close to 1.
    return vectors
