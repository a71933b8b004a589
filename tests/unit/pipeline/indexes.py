"""Builds small indexes for tests, and the catalogues that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.building.build import SpaceVectors, build
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Space
from lookalike.vectors import F32, normalised
from tests.unit.pipeline.catalogues import jsonl, photo

KINDS = ("fashion/shoes", "fashion/hats", "home/mugs", "home/beds")
COUNT = 200
COLOURS = ((200, 30, 30), (30, 160, 60), (40, 60, 200), (230, 200, 40))


def clustered_vectors(labels: Sequence[str], spread: float, *, dim: int = 16, seed: int = 0) -> F32:
    """Unit vectors (n, dim) scattered around one random centre for each label."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((len(set(labels)), dim))
    codes = np.unique(labels, return_inverse=True)[1]
    return normalised((centres[codes] + spread * random.standard_normal((len(labels), dim))).astype(np.float32))


def categories(count: int = COUNT) -> list[str]:
    return [KINDS[number % len(KINDS)] for number in range(count)]


def ids(count: int = COUNT) -> list[str]:
    return [f"p{number}" for number in range(count)]


def build_index(
    location: Path,
    product_categories: Sequence[str],
    spaces: Mapping[Space.ValueType, tuple[F32, Sequence[int]]],
    *,
    shards: int = 2,
    names: Sequence[str] = (),
    encoders: Mapping[Space.ValueType, str] | None = None,
) -> Path:
    """Build an index of products of these categories; spaces: vectors, and the rows of their products."""
    table = pa.table(
        {
            "id": list(names) or ids(len(product_categories)),
            "category": list(product_categories),
            "title": [f"{category.rpartition('/')[2]} {at % 3}" for at, category in enumerate(product_categories)],
        }
    )
    space_vectors: dict[int, SpaceVectors] = {
        space: SpaceVectors(
            encoder=(encoders or {}).get(space, f"fake-{space}"), vectors=vectors, rows=np.array(rows, np.int64)
        )
        for space, (vectors, rows) in spaces.items()
    }
    build(location, table, space_vectors, shards=shards)
    return location


def build_shop(directory: Path, count: int = COUNT) -> Path:
    """Write a catalogue in `catalogue` and its index in `index`.

    Image vectors are clustered by category, text vectors by top-level category only.
    """
    kinds, every = categories(count), range(count)
    rows = [
        {"id": name, "category": kind, "title": "", "image": f"images/{KINDS.index(kind)}.png"}
        for name, kind in zip(ids(count), kinds, strict=True)
    ]
    photos = {f"images/{at}.png": photo(colour) for at, colour in enumerate(COLOURS)}
    jsonl(directory / "catalogue", *rows, photos=photos)
    departments = [kind.partition("/")[0] for kind in kinds]
    spaces = {
        SPACE_IMAGE: (clustered_vectors(kinds, 0.8), every),
        SPACE_TEXT: (clustered_vectors(departments, 0.8, dim=8, seed=1), every),
    }
    build_index(directory / "index", kinds, spaces)
    return directory
