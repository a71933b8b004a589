"""Random products and vectors for tests."""

from __future__ import annotations

import time

import numpy as np
import pyarrow as pa

from index.backends import factory
from index.backends.recipe import DEFAULT, resolve_recipe
from index.building.build import SpaceVectors
from index.building.calibration import calibrate, draw_queries
from index.search.space import SpaceIndex
from index.serving.shard_version import ShardVersion
from index.serving.versions import ShardVersions, handle_of, shard_versions
from index.storage.vectors import StoredVectors
from lookalike.releases.manifest import IndexEntry
from lookalike.v1.index_pb2 import QueryVector
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32, I64, normalised

IMAGE, TEXT, PRODUCT = Space.SPACE_IMAGE, Space.SPACE_TEXT, Space.SPACE_PRODUCT


def unit_vectors(count: int, dim: int, seed: int = 0) -> F32:
    return normalised(np.random.default_rng(seed).normal(size=(count, dim)).astype(np.float32))


def clustered(count: int, dim: int, seed: int = 0) -> F32:
    """Unit vectors around 200 centres, like features of photos: nearest neighbours are of the same cluster."""
    random = np.random.default_rng(seed)
    centres = random.normal(size=(200, dim))
    spread = random.normal(size=(count, dim // 4)) @ random.normal(size=(dim // 4, dim)) / np.sqrt(dim // 4)
    return normalised((centres[random.integers(0, 200, count)] + 0.4 * spread).astype(np.float32))


def catalogue(count: int) -> pa.Table:
    """Products "p0" to "p<count-1>", not in the order of their ids."""
    rows = range(count)
    return pa.table(
        {
            "id": [f"p{row}" for row in rows],
            "title": [f"title of {row}" for row in rows],
            "description": [f"description of {row}" for row in rows],
            "category": [("fashion/shoes", "fashion", "fashionable", "home/kitchen/pans", "")[row % 5] for row in rows],
            "shop": [f"shop {row % 3}" for row in rows],
            "price": [float(row % 50) for row in rows],
            "currency": ["JPY"] * count,
            "in_stock": [row % 4 > 0 for row in rows],
        }
    )


def vectors_of(vectors: F32, rows: I64 | None = None, encoder: str = "drawn") -> SpaceVectors:
    return SpaceVectors(encoder=encoder, vectors=vectors, rows=np.arange(len(vectors)) if rows is None else rows)


def build_space(vectors: StoredVectors, recipe: str = DEFAULT, rows: I64 | None = None, seed: int = 0) -> SpaceIndex:
    """The space index that a build makes of unit vectors; exact where the recipe does not reach the target recall."""
    rows = np.arange(len(vectors)) if rows is None else rows
    resolved = resolve_recipe(recipe, len(vectors), vectors.shape[1], 0)
    held_out = draw_queries(len(vectors), seed)
    index = None if resolved is None else factory.train_index(resolved, vectors, seed, 1, held_out=held_out)
    points = () if index is None else calibrate(index, vectors, held_out)
    entry = IndexEntry(recipe=str(resolved), operating_points=points) if points else IndexEntry()
    return SpaceIndex(entry=entry, vectors=vectors, rows=rows, ann_index=index if points else None)


def query_vector(space: int, vector: F32 | bytes, weight: float = 0) -> QueryVector:
    """The vector of a query in one space."""
    data = vector if isinstance(vector, bytes) else vector.tobytes()
    return QueryVector(space=space, vector=data, weight=weight)  # type: ignore[arg-type]  # tests use wrong spaces, too


def recall(space: SpaceIndex, queries: F32, k: int) -> float:
    """recall@k of approximate search against exact search."""
    truth, approximate = space.search(queries, k, exact=True), space.search(queries, k)
    shared = (len(np.intersect1d(one.rows, other.rows)) for one, other in zip(truth, approximate, strict=True))
    return sum(shared) / (k * len(queries))


def serving_only(shard: ShardVersion) -> ShardVersions:
    """The served versions of a shard process that has loaded only this one."""
    served = shard_versions(time.monotonic, lease_s=30)
    served.add(handle_of(shard))
    return served
