"""The recipe of a compacted segment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from index.backends import factory
from index.backends.faiss_support import use_threads
from index.backends.ivf import IvfIndex
from index.backends.recipe import HnswRecipe, IvfRecipe, NgtRecipe, Recipe, SymqgRecipe, resolve_recipe
from index.backends.vector_index import VectorIndex
from index.building import calibration
from index.building.build import IndexOptions, build
from index.live import compaction
from index.live.live_shard import LiveLimits, LiveShard
from index.live.segment_recipe import segment_recipe
from index.serving.shard_version import open_shard
from lookalike.releases.manifest import OperatingPoint
from lookalike.shard_query import ShardQuery
from lookalike.v1.index_pb2 import Update, Upsert
from lookalike.v1.types_pb2 import Product, SpaceVector
from lookalike.vectors import F32, pack
from tests.unit.index.samples import IMAGE, clustered, unit_vectors, vectors_of

FEW, DIM = 15_000, 1024
COUNT, CHANGED, SMALL_DIM = 1_200, 400, 128


def base(name: str, documents: int = 100_000, dim: int = DIM) -> Recipe:
    recipe = resolve_recipe(name, documents, dim, 0)
    assert recipe is not None
    return recipe


def test_lists_are_resized_for_far_fewer_vectors_and_all_else_is_kept() -> None:
    recipe = base("IVF,PQ4fs")
    assert segment_recipe(recipe, recipe, FEW, DIM) == IvfRecipe("PQ", 256, 256)
    assert segment_recipe(recipe, recipe, 80_000, DIM) == recipe


def test_lists_of_rotated_vectors_are_kept_as_they_are() -> None:
    recipe = base("PCAR256,IVF,RaBitQfs")
    assert segment_recipe(recipe, recipe, FEW, DIM) == recipe


@pytest.mark.parametrize("name", ["HNSW32,SQ8", "HNSW32", "NGT"])
def test_beside_a_graph_of_no_less_memory_changes_are_searched_by_symphonyqg(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(factory, "is_installed", lambda recipe: True)
    assert segment_recipe(base(name), base(name), FEW, DIM) == SymqgRecipe(32, rotated_dim=256)
    assert segment_recipe(NgtRecipe(), NgtRecipe(), FEW, 128) == SymqgRecipe(32)


def test_where_symphonyqg_is_missing_or_takes_far_more_memory_changes_are_in_lists(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lists = IvfRecipe("PQ", 256, 256)
    small = HnswRecipe(24, quantized=True, rotated_dim=256)
    monkeypatch.setattr(factory, "is_installed", lambda recipe: True)
    assert segment_recipe(small, small, FEW, DIM) == lists
    monkeypatch.setattr(factory, "is_installed", lambda recipe: False)
    large = base("HNSW32,SQ8")
    assert segment_recipe(large, large, FEW, DIM) == lists
    assert segment_recipe(large, lists, 50_000, DIM) == IvfRecipe("PQ", 256, 256)
    assert segment_recipe(large, lists, 150_000, DIM) == IvfRecipe("PQ", 1024, 256)


def test_a_symphonyqg_base_has_segments_of_its_own_recipe() -> None:
    recipe = base("PCAR384,SymQG32")
    assert segment_recipe(recipe, recipe, FEW, DIM) == recipe


def upserts(vectors: F32, revision: int) -> list[Update]:
    return [
        Update(
            revision=revision,
            upsert=Upsert(product=Product(id=f"p{row:05}"), vectors=[SpaceVector(space=IMAGE, vector=pack(vector))]),
        )
        for row, vector in enumerate(vectors)
    ]


def open_live(folder: Path, recipe: str, vectors: F32) -> LiveShard:
    use_threads(1)
    if not (folder / "index").exists():
        products, options = pa.table({"id": [f"p{row:05}" for row in range(len(vectors))]}), IndexOptions(recipe=recipe)
        build(folder / "index", products, {IMAGE: vectors_of(vectors)}, shards=1, options=options)
    version, limits = open_shard(folder / "index", 0), LiveLimits(delta_rows=4 * CHANGED, changes=COUNT)
    return LiveShard(version.base, version.manifest, 0, folder / "live", limits)


@pytest.mark.parametrize(
    ("draw", "recipe", "expected"),
    [(unit_vectors, "HNSW32", "SymQG32"), (clustered, "HNSW16,SQ8", "IVF8,PQ32x4fs")],
    ids=["symqg", "lists"],
)
def test_changes_beside_a_graph_are_compacted_by_the_recipe_that_suits_and_found_after_a_restart(
    draw: Callable[[int, int], F32], recipe: str, expected: str, tmp_path: Path
) -> None:
    if expected == "SymQG32":
        pytest.importorskip("rabitqlib")
    vectors = draw(COUNT + 2 * CHANGED, SMALL_DIM)
    live = open_live(tmp_path, recipe, vectors[:COUNT])
    for revision, count in ((1, CHANGED), (2, 2 * CHANGED)):  # Trained, then extended.
        live.apply(upserts(vectors[COUNT : COUNT + count], revision))
        live.compact()
        assert live.view.segments[1].spaces[IMAGE].entry.recipe == expected
    live.close()
    live = open_live(tmp_path, recipe, vectors[:COUNT])
    queries = [
        ShardQuery(vectors={IMAGE: vector}, weights=(1.0,), filter=b"", k=1, exact=False, explain=False)
        for vector in vectors[COUNT : COUNT + 50]
    ]
    found = [hits.ids[0] for hits in live.view.nearest(queries)]
    live.close()
    assert sum(one == f"p{row:05}" for row, one in enumerate(found)) >= 48


def test_where_the_other_recipe_misses_the_recall_of_the_base_changes_are_in_a_graph_like_the_base(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def calibrate(index: VectorIndex, *arguments: Any) -> tuple[OperatingPoint, ...]:
        return () if isinstance(index, IvfIndex) else calibration.calibrate(index, *arguments)

    monkeypatch.setattr(compaction, "calibrate", calibrate)
    monkeypatch.setattr(compaction, "segment_recipe", lambda *_: IvfRecipe("PQ", 4, 32))
    vectors = clustered(COUNT + CHANGED, SMALL_DIM)
    live = open_live(tmp_path, "HNSW32", vectors[:COUNT])
    live.apply(upserts(vectors[COUNT:], 1))
    live.compact()
    live.close()
    assert live.view.segments[1].spaces[IMAGE].entry.recipe == "HNSW32"
