"""SymphonyQG: its memory, threads, files, equal vectors, and updates beside it."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.backends import factory, symqg
from index.backends.recipe import SymqgRecipe
from index.backends.symqg import SymqgIndex
from index.building.build import IndexOptions, build
from index.building.tune_trial import candidate_recipes
from index.live.live_shard import LiveLimits, LiveShard
from index.search.queries import parse_query
from index.serving.shard_version import open_shard
from lookalike.errors import BadArtifact, BadSettings
from lookalike.v1.index_pb2 import ShardQuery, Update, Upsert
from lookalike.v1.types_pb2 import Product, SpaceVector
from lookalike.vectors import F32, pack
from tests.unit.index.samples import IMAGE, build_space, clustered, query_vector, unit_vectors, vectors_of

COUNT, DIM = 3_000, 96
PLAIN, ROTATED = SymqgRecipe(32), SymqgRecipe(32, rotated_dim=64)
VECTORS = clustered(COUNT, DIM)


@pytest.fixture(scope="module")
def plain() -> SymqgIndex:
    return symqg.train(PLAIN, VECTORS, 0, 1)


@pytest.fixture(scope="module")
def rotated() -> SymqgIndex:
    """With 40 equal vectors, so that it has all kinds of files."""
    vectors = VECTORS.copy()
    vectors[100:140] = vectors[100]
    return symqg.train(ROTATED, vectors, 0, 1)


def bytes_on_disk(path: Path) -> int:
    return sum(file.stat().st_size for file in path.iterdir())


@pytest.mark.parametrize("recipe", [PLAIN, ROTATED, SymqgRecipe(64), SymqgRecipe(32, rotated_dim=70)])
def test_the_memory_that_it_tells_is_that_of_its_file(recipe: SymqgRecipe, tmp_path: Path) -> None:
    index = symqg.train(recipe, VECTORS, 0, 1)
    index.write(tmp_path / "codes")
    assert index.ram_bytes() == pytest.approx(bytes_on_disk(tmp_path / "codes"), rel=0.005)


def test_a_search_releases_the_interpreter_lock(plain: SymqgIndex) -> None:
    """Another thread runs Python in the middle of a search."""
    many, times_s = np.repeat(VECTORS, 20, axis=0), []

    def search() -> None:
        times_s.append(time.monotonic())
        plain.find_candidates(many, 10, 100)
        times_s.append(time.monotonic())

    thread, ticks_s = threading.Thread(target=search), []
    thread.start()
    while thread.is_alive():
        ticks_s.append(time.monotonic())
    start_s, end_s = times_s
    quarter_s = (end_s - start_s) / 4
    assert any(start_s + quarter_s < tick_s < end_s - quarter_s for tick_s in ticks_s)


@pytest.mark.parametrize("fixture", ["plain", "rotated"])
def test_four_threads_get_the_candidates_that_one_gets(fixture: str, request: pytest.FixtureRequest) -> None:
    index: SymqgIndex = request.getfixturevalue(fixture)
    batches = [clustered(16, DIM, seed=seed) for seed in range(40)]
    alone = [index.find_candidates(batch, 40, 60).tolist() for batch in batches]
    with ThreadPoolExecutor(4) as threads:
        together = threads.map(lambda batch: index.find_candidates(batch, 40, 60).tolist(), batches * 5)
        assert list(together) == alone * 5


def test_a_query_that_is_not_finite_spoils_no_other_of_its_batch(plain: SymqgIndex) -> None:
    """A shard refuses such a query, but must not depend on it."""
    queries = clustered(16, DIM, seed=1)
    expected = plain.find_candidates(queries, 10, 50)
    queries[3], queries[7] = np.nan, np.inf
    finite = [row for row in range(16) if row not in (3, 7)]
    found = plain.find_candidates(queries, 10, 50)
    assert (found[finite] == expected[finite]).all()
    assert found.shape == (16, 10)


def test_thousands_of_equal_vectors_hide_no_other_and_are_all_found() -> None:
    """Such as those of a placeholder photo."""
    vectors = clustered(4_000, DIM)
    vectors[1_000:3_000] = vectors[1_000]
    space = build_space(vectors, "SymQG32")
    assert space.ann_index is not None
    (equal,) = space.search(vectors[1_000:1_001], 2_000)
    assert equal.rows.tolist() == list(range(1_000, 3_000))
    others = np.concatenate((np.arange(0, 1_000, 20), np.arange(3_000, 4_000, 20)))
    assert [found.rows[0] for found in space.search(vectors[others], 10)] == others.tolist()


@pytest.mark.parametrize("distinct", [1, 20, 32, 33, 100])
def test_few_distinct_vectors_can_be_indexed(distinct: int) -> None:
    """As few as a node has links, too, or fewer."""
    vectors = unit_vectors(distinct, DIM)[np.arange(400) % distinct]
    index = symqg.train(PLAIN, vectors, 0, 1)
    (found,) = index.find_candidates(vectors[:1], 400, 400)
    assert index.documents == 400
    assert len(np.unique(found[found >= 0])) == (found >= 0).sum()
    space = build_space(vectors, "SymQG32")
    (nearest,) = space.search(vectors[:1], 400 // distinct)
    assert nearest.rows.tolist() == list(range(0, distinct * (400 // distinct), distinct))


def test_where_the_graph_reaches_fewer_than_asked_for_the_rest_is_empty_and_no_error() -> None:
    """Clusters of nearly equal vectors have no links to each other."""
    vectors = np.repeat(unit_vectors(64, 64), 50, axis=0)
    vectors += np.random.default_rng(0).normal(scale=1e-6, size=vectors.shape).astype(np.float32)
    index = symqg.train(PLAIN, vectors, 0, 1)
    queries = vectors[:16]
    found = index.find_candidates(queries, len(vectors), len(vectors))
    assert (found[:, 0] >= 0).all()
    for row in found:
        assert len(np.unique(row[row >= 0])) == (row >= 0).sum()
        assert (np.diff((row >= 0).astype(int)) <= 0).all()  # −1 only at the end.


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("file", ["graph", "rotation.npy", "groups.npy"])
@pytest.mark.parametrize(
    "damage",
    [truncate, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"x" * path.stat().st_size)],
    ids=["truncated", "empty", "overwritten"],
)
def test_a_damaged_file_is_refused(
    rotated: SymqgIndex, tmp_path: Path, file: str, damage: Callable[[Path], object]
) -> None:
    """A version's checksums refuse it first; this is what a reader does without them."""
    rotated.write(tmp_path / "codes")
    damage(tmp_path / "codes" / file)
    with pytest.raises(BadArtifact, match="codes"):
        symqg.read_index(tmp_path / "codes", ROTATED, DIM)


@pytest.mark.parametrize("file", ["graph", "rotation.npy"])
def test_a_missing_file_is_refused(rotated: SymqgIndex, tmp_path: Path, file: str) -> None:
    rotated.write(tmp_path / "codes")
    (tmp_path / "codes" / file).unlink()
    with pytest.raises(BadArtifact, match="codes"):
        symqg.read_index(tmp_path / "codes", ROTATED, DIM)


def test_groups_that_are_not_those_of_the_graph_are_refused(rotated: SymqgIndex, tmp_path: Path) -> None:
    rotated.write(tmp_path / "codes")
    np.save(tmp_path / "codes" / "groups.npy", np.arange(7, dtype=np.int32))
    with pytest.raises(BadArtifact, match="groups"):
        symqg.read_index(tmp_path / "codes", ROTATED, DIM)


@pytest.mark.parametrize(
    "expected", [PLAIN, replace(ROTATED, degree=64), replace(ROTATED, rotated_dim=96)], ids=["plain", "degree", "dim"]
)
def test_a_graph_of_another_recipe_is_refused(rotated: SymqgIndex, tmp_path: Path, expected: SymqgRecipe) -> None:
    rotated.write(tmp_path / "codes")
    with pytest.raises(BadArtifact, match="expected"):
        symqg.read_index(tmp_path / "codes", expected, DIM)


def test_another_index_is_no_graph(tmp_path: Path) -> None:
    factory_index = build_space(VECTORS, "HNSW8").ann_index
    assert factory_index is not None
    factory_index.write(tmp_path / "codes")
    with pytest.raises(BadArtifact, match="codes"):
        symqg.read_index(tmp_path / "codes", PLAIN, DIM)


def test_without_the_library_the_error_names_it_and_what_to_do_instead(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "rabitqlib", None)
    reason = r"pip install rabitqlib.*another recipe"
    with pytest.raises(BadSettings, match=reason):
        factory.train_index(PLAIN, VECTORS, 0, 1)
    with pytest.raises(BadSettings, match=reason):
        factory.read_index(tmp_path, PLAIN, DIM)


def test_tuning_tries_it_only_where_the_library_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert {"SymQG32", "PCAR256,SymQG32"} <= set(candidate_recipes(1024))
    monkeypatch.setattr(symqg, "is_installed", lambda: False)
    assert not [name for name in candidate_recipes(1024) if "SymQG" in name]


def upsert(product_id: str, vector: F32) -> Update:
    vectors = [SpaceVector(space=IMAGE, vector=pack(vector))]
    return Update(revision=1, upsert=Upsert(product=Product(id=product_id, shop="0"), vectors=vectors))


def test_products_added_replaced_and_removed_beside_it_are_found_before_and_after_a_compaction(tmp_path: Path) -> None:
    products = pa.table({"id": [f"p{row:05}" for row in range(COUNT)], "shop": [f"{row % 7}" for row in range(COUNT)]})
    options = IndexOptions(recipe="SymQG32")
    build(tmp_path / "index", products, {IMAGE: vectors_of(VECTORS)}, shards=1, options=options, exact_floats=0)
    shard = open_shard(tmp_path / "index", 0)
    assert shard.base.spaces[IMAGE].ann_index is not None
    live = LiveShard(shard.base, shard.manifest, 0, tmp_path / "live", LiveLimits(delta_rows=2_000, changes=COUNT))
    added = clustered(600, DIM, seed=1)
    live.apply([upsert(f"p{row:05}", added[row]) for row in range(300)])  # Replaced,
    live.apply([upsert(f"new{row}", added[row]) for row in range(300, 600)])  # added,
    live.apply([Update(revision=1, remove=f"p{row:05}") for row in range(300, 600)])  # removed.

    def nearest(vector: F32) -> list[str]:
        message = ShardQuery(vectors=[query_vector(IMAGE, vector)], k=10)
        (found,) = live.view.nearest([parse_query(message, {IMAGE: DIM})])
        return list(found.ids)

    for _ in range(2):
        for row in range(0, 300, 30):
            assert nearest(added[row])[0] == f"p{row:05}"
            assert nearest(added[300 + row])[0] == f"new{300 + row}"
            assert f"p{300 + row:05}" not in nearest(VECTORS[300 + row])
            assert nearest(VECTORS[1_000 + row])[0] == f"p{1_000 + row:05}"
        live.compact()
    recipes = [segment.spaces[IMAGE].entry.recipe for segment in live.view.segments]
    assert recipes[:2] == ["SymQG32", "SymQG32"]
    live.close()
