"""Builds small indexes for tests, and the catalogues that they belong to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from index.building.build import SpaceVectors, build
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Space
from lookalike.vectors import F32, normalised
from tests.unit.pipeline.catalogues import photo, write_jsonl

CATEGORIES = ("fashion/shoes", "fashion/hats", "home/mugs", "home/beds")
COUNT = 200
COLOURS = ((200, 30, 30), (30, 160, 60), (40, 60, 200), (230, 200, 40))


def clustered_vectors(labels: Sequence[str], spread: float, *, dim: int = 16, seed: int = 0) -> F32:
    """Unit vectors (n, dim) scattered around one random centre for each label."""
    random = np.random.default_rng(seed)
    centres = random.standard_normal((len(set(labels)), dim))
    codes = np.unique(labels, return_inverse=True)[1]
    return normalised((centres[codes] + spread * random.standard_normal((len(labels), dim))).astype(np.float32))


def categories(count: int = COUNT) -> list[str]:
    return [CATEGORIES[number % len(CATEGORIES)] for number in range(count)]


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
            "title": [f"{category.rpartition('/')[2]} {row % 3}" for row, category in enumerate(product_categories)],
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
    product_categories, all_rows = categories(count), range(count)
    rows = [
        {"id": name, "category": category, "title": "", "image": f"images/{CATEGORIES.index(category)}.png"}
        for name, category in zip(ids(count), product_categories, strict=True)
    ]
    photos = {f"images/{number}.png": photo(colour) for number, colour in enumerate(COLOURS)}
    write_jsonl(directory / "catalogue", *rows, photos=photos)
    top_levels = [category.partition("/")[0] for category in product_categories]
    spaces = {
        SPACE_IMAGE: (clustered_vectors(product_categories, 0.8), all_rows),
        SPACE_TEXT: (clustered_vectors(top_levels, 0.8, dim=8, seed=1), all_rows),
    }
    build_index(directory / "index", product_categories, spaces)
    return directory
