"""The whole update on real products: import, encode with ImageNet weights, train, build; neighbours are of a kind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from index import names, version
from index.loaded import opened
from lookalike.vectors import F32
from pipeline import catalogue
from pipeline.product import Reject

COUNT = 200
REPOSITORY = Path(__file__).resolve().parents[2]


def lookalike(*words: str | Path | int) -> str:
    command = [sys.executable, "-m", "lookalike", *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=REPOSITORY, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def vectors_and_categories(location: Path, space: str) -> tuple[F32, list[str]]:
    """The vectors of a space of the version that serves, and the leaf of each product's category."""
    current = version.current(location)
    vectors, leaves = [], []
    for shard in range(version.read(location, current).shards):
        loaded = opened(location, shard)
        index = loaded.spaces[names.number_of(space)]
        vectors.append(np.asarray(index.vectors))
        leaves += [loaded.table.categories.text(int(loaded.table.category_codes[row])) for row in index.rows]
    return np.concatenate(vectors), leaves


def precision_at_10(vectors: F32, leaves: list[str]) -> tuple[float, float]:
    """How many of the ten nearest share the leaf category, each product left out of its own answer; and by chance."""
    codes = np.unique(leaves, return_inverse=True)[1]
    scores = vectors @ vectors.T
    np.fill_diagonal(scores, -np.inf)
    nearest = np.argsort(-scores, axis=1)[:, :10]
    counts = np.bincount(codes)[codes]
    return float((codes[nearest] == codes[:, None]).mean()), float((counts - 1).mean() / (len(codes) - 1))


@pytest.mark.data
@pytest.mark.slow
def test_neighbours_of_real_products_share_their_category_far_above_chance(real_data: Path, tmp_path: Path) -> None:
    shop, models, index = tmp_path / "shop", tmp_path / "models", tmp_path / "index"
    fashion = real_data / "fashion"
    lookalike(
        "catalog", "import", fashion / "fashion_products.csv.gz", shop, "--field", "title=title",
        "--field", "category=masterCategory,articleType", "--images", fashion / "images_224.tar.xz",
        "--image", "{id}.jpg", "--require-image", "--limit", COUNT,
    )  # fmt: skip
    lookalike("encoders", "export", models, "--weights", *(real_data / "mobilenet").glob("*.h5"))

    words = ("update", shop, index, "--models", models, "--artifacts", tmp_path / "text", "--json")
    told = json.loads(lookalike(*words))

    assert told["products"] == COUNT
    assert len([item for item in catalogue.read(shop) if not isinstance(item, Reject)]) == COUNT
    for space, least in (("image", 0.45), ("text", 0.35)):
        assert told["spaces"][space]["vectors"] == COUNT
        precision, chance = precision_at_10(*vectors_and_categories(index, space))
        assert precision > max(least, 3 * chance), (space, precision, chance)
