"""Building versions: refused inputs, written files, interrupted builds."""

from __future__ import annotations

import fcntl
from collections.abc import Generator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index.backends import factory
from index.building.build import IndexOptions, SpaceVectors, build
from index.serving.shard_version import ShardVersion, open_shard
from index.storage.names import ANN_INDEX
from lookalike.errors import BadArtifact, BadCatalogue, LookalikeError, OperatorError
from lookalike.releases import version
from lookalike.runtime.engine import Engine, TaskNeeds
from lookalike.runtime.local_engine import LocalEngine
from lookalike.runtime.partition import shard_of
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import Filter, Product
from lookalike.vectors import F32
from tests.unit.index.samples import IMAGE, TEXT, catalogue, clustered, query_vector, unit_vectors, vectors_of

COUNT = 40


def ids_in(shard: ShardVersion) -> list[str]:
    return [shard.base.table.ids.text(row) for row in range(len(shard.base.table))]


def test_each_product_is_in_its_shard_and_rows_rise_by_id(tmp_path: Path) -> None:
    build(tmp_path, catalogue(COUNT), {IMAGE: vectors_of(unit_vectors(COUNT, 8))}, shards=3)
    shards = [open_shard(tmp_path, shard) for shard in range(3)]
    for shard in shards:
        assert ids_in(shard) == sorted(ids_in(shard))
        assert {shard_of(product_id, 3) for product_id in ids_in(shard)} == {shard.shard}
    everywhere = [product_id for shard in shards for product_id in ids_in(shard)]
    assert sorted(everywhere) == sorted(catalogue(COUNT)["id"].to_pylist())


def test_each_product_keeps_its_vector_at_unit_norm(tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).normal(size=(COUNT, 8)).astype(np.float32) * 1e-15
    build(tmp_path, catalogue(COUNT), {IMAGE: vectors_of(vectors)}, shards=2)
    for number in range(2):
        shard = open_shard(tmp_path, number)
        for row, product_id in enumerate(ids_in(shard)):
            vector = shard.base.spaces[IMAGE].vector(row)
            original = vectors[int(product_id[1:])]
            assert vector is not None
            assert np.allclose(vector, original / np.linalg.norm(original.astype(np.float64)), atol=1e-6)


def test_a_product_may_lack_a_vector_in_a_space(tmp_path: Path) -> None:
    rows = np.array([30, 4, 17])
    spaces: dict[int, SpaceVectors] = {
        IMAGE: vectors_of(unit_vectors(COUNT, 8)),
        TEXT: vectors_of(unit_vectors(3, 5), rows),
    }
    build(tmp_path, catalogue(COUNT), spaces, shards=1)
    shard = open_shard(tmp_path, 0)
    assert {ids_in(shard)[row] for row in shard.base.spaces[TEXT].rows} == {"p30", "p4", "p17"}
    fetched = shard.fetch(index_pb2.FetchRequest(ids=["p4", "p5"], vectors=[IMAGE, TEXT]))
    assert [[found.space for found in product.vectors] for product in fetched.products] == [[IMAGE, TEXT], [IMAGE]]
    query = index_pb2.ShardQuery(vectors=[query_vector(TEXT, unit_vectors(3, 5)[1])], k=10)
    query.filter.in_stock = False  # p4, not p17 or p30
    assert list(shard.search([query]).results[0].ids) == ["p4"]


def test_more_shards_than_products_leave_some_shards_empty_and_able_to_answer(tmp_path: Path) -> None:
    build(tmp_path, catalogue(2), {IMAGE: vectors_of(unit_vectors(2, 8))}, shards=5)
    shards = [open_shard(tmp_path, shard) for shard in range(5)]
    empty = next(shard for shard in shards if not len(shard.base.table))
    query = index_pb2.ShardQuery(vectors=[query_vector(IMAGE, unit_vectors(1, 8))], k=3, filter=Filter(shop_in=["x"]))
    (hits,) = empty.search([query]).results
    assert (list(hits.ids), hits.error) == ([], "")
    assert empty.count(Filter(in_stock=True)) == 0
    assert not empty.page(Filter(), "").ids
    assert not empty.fetch(index_pb2.FetchRequest(ids=["p0"])).products[0].HasField("product")
    assert sum(len(shard.base.table) for shard in shards) == 2


def test_a_catalogue_without_a_single_vector_can_be_listed(tmp_path: Path) -> None:
    build(tmp_path, catalogue(3), {}, shards=1)
    assert list(open_shard(tmp_path, 0).page(Filter(), "").ids) == ["p0", "p1", "p2"]


def test_ids_of_256_bytes_in_any_script_are_found(tmp_path: Path) -> None:
    ids = ["商" * 85 + "x", "é" * 128, "\U0001f45f" * 64, "a", "\u00a1", "z" * 256]
    build(tmp_path, pa.table({"id": ids}), {IMAGE: vectors_of(unit_vectors(6, 4))}, shards=1)
    shard = open_shard(tmp_path, 0)
    assert list(shard.page(Filter(), "").ids) == sorted(ids, key=str.encode)
    fetched = shard.fetch(index_pb2.FetchRequest(ids=[*ids, "b", ""]))
    assert [Product.FromString(each.product).id for each in fetched.products] == [*ids, "", ""]


def test_the_same_inputs_give_the_same_version_and_results(tmp_path: Path) -> None:
    products, vectors = catalogue(3000), clustered(3000, 32)
    query = index_pb2.ShardQuery(vectors=[query_vector(IMAGE, vectors[7])], k=20)
    results = []
    for directory, threads in (("one", 1), ("two", 2)):
        location = tmp_path / directory
        name = build(location, products, {IMAGE: vectors_of(vectors)}, shards=1, threads=threads, exact_floats=1000)
        results.append((name, open_shard(location, 0).search([query])))
        assert open_shard(location, 0).base.spaces[IMAGE].entry.operating_points
    assert results[0] == results[1]


def built_files(location: Path, recipe: str, engine: Engine) -> dict[str, bytes]:
    products, space = catalogue(3000), vectors_of(clustered(3000, 64))
    options = IndexOptions(recipe=recipe)
    name = build(location, products, {IMAGE: space}, shards=2, options=options, engine=engine, exact_floats=0)
    root = location / name
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


# Not SymphonyQG and NGT, whose libraries take no seed.
@pytest.mark.parametrize(
    "recipe", ["IVF,PQ4fs", "IVF,SQ8", "OPQ8_32,IVF,PQ8x4fs", "PCAR32,IVF,RaBitQfs", "IVF,RaBitQ", "PCAR32,HNSW16,SQ8"]
)
def test_an_index_is_the_same_byte_for_byte_with_any_number_of_threads(tmp_path: Path, recipe: str) -> None:
    one = built_files(tmp_path / "one", recipe, LocalEngine(threads=1))
    several = built_files(tmp_path / "several", recipe, LocalEngine(threads=6))  # Three for each shard.
    assert sum(name.endswith(ANN_INDEX) or f"/{ANN_INDEX}/" in name for name in one) >= 2
    assert one == several


def test_an_interrupted_build_of_indexes_leaves_nothing(tmp_path: Path) -> None:
    class Failing(LocalEngine):
        def map(self, task: Any, items: Any, needs: TaskNeeds) -> Generator[Any, None, None]:
            yield task(next(iter(items)))
            raise OperatorError("the other machine is gone")

    with pytest.raises(OperatorError, match="the other machine is gone"):
        built_files(tmp_path, "HNSW16", Failing())
    assert {path.name for path in tmp_path.iterdir()} == {".lock"}


def test_the_order_of_the_products_does_not_matter(tmp_path: Path) -> None:
    products, vectors = catalogue(COUNT), unit_vectors(COUNT, 8)
    shuffled = np.random.default_rng(0).permutation(COUNT)
    first = build(tmp_path, products, {IMAGE: vectors_of(vectors)}, shards=2)
    assert build(tmp_path, products.take(shuffled), {IMAGE: vectors_of(vectors[shuffled])}, shards=2) == first


@pytest.mark.parametrize("change", ["price", "tags", "vector", "encoder", "seed", "shards"])
def test_another_input_gives_another_version(tmp_path: Path, change: str) -> None:
    products, vectors = catalogue(COUNT), unit_vectors(COUNT, 8)
    first = build(tmp_path, products, {IMAGE: vectors_of(vectors)}, shards=1)
    if change == "price":
        products = products.set_column(products.column_names.index("price"), "price", pa.array([1.0] * COUNT))
    if change == "tags":
        products = products.append_column("tags", pa.array([["new"]] * COUNT))
    if change == "vector":
        vectors[3] = vectors[4]
    space_vectors = vectors_of(vectors, encoder="other" if change == "encoder" else "drawn")
    second = build(
        tmp_path, products, {IMAGE: space_vectors}, shards=1 + (change == "shards"), seed=int(change == "seed")
    )
    assert second != first
    assert version.read_current(tmp_path) == second
    assert (tmp_path / first / version.MANIFEST).exists()


def table_with(column: str, values: list[object]) -> pa.Table:
    rows = len(values)
    return pa.table({"id": [f"p{row}" for row in range(rows)], column: values})


@pytest.mark.parametrize(
    ("products", "reason"),
    [
        (pa.table({"title": ["a"]}), "no column `id`"),
        (pa.table({"id": ["a"], "colour": ["red"]}), r"unknown columns \['colour'\]"),
        (pa.table({"id": [1, 2]}), "column id is int64, not large_string"),
        (pa.table({"id": ["a", ""]}), "row 1: missing id"),
        (pa.table({"id": ["a", None]}), "row 1: missing id"),
        (pa.table({"id": ["a", "b", "商" * 86]}), "row 2: bad id: the id has 258 bytes"),
        (pa.table({"id": ["a", "b", "a"]}), "row 2: the id 'a' is already that of row 0"),
        (table_with("price", ["1"]), "column price is string, not double"),
        (table_with("price", [1.0, float("inf")]), "row 1 has a price that is not finite"),
        (table_with("price", [1.0, -1.0]), "row 1 has a price below 0"),
        (table_with("category", ["a", "a//b"]), "row 1: bad category"),
        (table_with("tags", [1, 2]), "column tags is int64, neither lists of text nor text"),
        (table_with("tags", [[1]]), r"column tags is list<.*int64>, neither"),
        (table_with("tags", [["a"], ["b", ""]]), "row 1 has an empty tag"),
        (table_with("tags", [["a"], ["b", None]]), "row 1 has an empty tag"),
        (table_with("tags", ["a", "b||c"]), "row 1 has an empty tag"),
        (table_with("tags", [[], ["x" * 65]]), "row 1 has a tag of 65 bytes, 64 are allowed"),
        (table_with("tags", ["|".join(map(str, range(33)))]), "row 0 has 33 tags, 32 are allowed"),
        (table_with("created_at", ["2025-11-25"]), "column created_at is string, neither whole seconds"),
        (table_with("created_at", [1.5]), "column created_at is double, neither whole seconds"),
        (table_with("created_at", [0, -1]), "row 1 has a created_at before 1970"),
        (table_with("created_at", [1_764_062_700_000]), "row 0 has a created_at after the year 5138"),
        (table_with("in_stock", ["yes"]), "column in_stock is string, not bool"),
        (table_with("shop", ["x", "x" * 257]), "row 1: over-long field"),
    ],
)
def test_a_bad_catalogue_is_refused_with_its_row_and_reason(tmp_path: Path, products: pa.Table, reason: str) -> None:
    with pytest.raises(BadCatalogue, match=reason):
        build(tmp_path, products, {}, shards=1)
    assert not (tmp_path / version.CURRENT).exists()


@pytest.mark.parametrize(
    "tags",
    [
        pa.array([["women", " colour:red", "women"], None, []]),
        pa.array([["women", "colour:red"], [], []], pa.large_list(pa.large_string())),
        pa.array(["women|colour:red", None, ""]),
        pa.array(["women|colour:red", None, " "]).dictionary_encode(),
    ],
    ids=lambda tags: str(tags.type)[:20],
)
def test_tags_may_be_lists_or_texts_and_are_stored_with_their_product(tmp_path: Path, tags: pa.Array) -> None:
    products = pa.table({"id": ["a", "b", "c"], "tags": tags})
    build(tmp_path, products, {}, shards=1)
    page = open_shard(tmp_path, 0).page(Filter(), "")
    assert [list(Product.FromString(data).tags) for data in page.products] == [["colour:red", "women"], [], []]


def test_without_a_tags_column_products_have_no_tags(tmp_path: Path) -> None:
    build(tmp_path / "none", catalogue(2), {}, shards=1)
    build(tmp_path / "null", catalogue(2).append_column("tags", pa.nulls(2)), {}, shards=1)
    build(tmp_path / "empty", catalogue(2).append_column("tags", pa.array([[], []])), {}, shards=1)
    assert len({version.read_current(tmp_path / how) for how in ("none", "null", "empty")}) == 1
    (data, _) = open_shard(tmp_path / "none", 0).page(Filter(), "").products
    assert not Product.FromString(data).tags


@pytest.mark.parametrize(
    "times",
    [
        pa.array([1_764_062_700, None], pa.int32()),
        pa.array([datetime(2025, 11, 25, 9, 25, 0, 900_000), None], pa.timestamp("us")),
        pa.array([datetime(2025, 11, 25, 9, 25, tzinfo=UTC), None], pa.timestamp("ns", "Asia/Tokyo")),
    ],
    ids=lambda times: str(times.type),
)
def test_times_may_be_seconds_or_timestamps_and_are_stored_with_their_product(tmp_path: Path, times: pa.Array) -> None:
    build(tmp_path, pa.table({"id": ["a", "b"], "created_at": times}), {}, shards=1)
    shard = open_shard(tmp_path, 0)
    page = shard.page(Filter(), "")
    assert [Product.FromString(data).created_at for data in page.products] == [1_764_062_700, 0]
    assert list(shard.page(Filter(created_after=1_764_062_699), "").ids) == ["a"]


def with_value(row: int, value: float) -> F32:
    vectors = unit_vectors(COUNT, 4)
    vectors[row] = value
    return vectors


@pytest.mark.parametrize(
    ("space_vectors", "reason"),
    [
        (vectors_of(with_value(7, np.nan)), "image: vector 7 is not finite"),
        (vectors_of(with_value(8, np.inf)), "image: vector 8 is not finite"),
        (vectors_of(with_value(9, 0)), "image: vector 9 is zero"),
        (vectors_of(unit_vectors(COUNT, 4)[0]), "not float32 "),
        (vectors_of(unit_vectors(COUNT, 4).astype(np.float64)), "float64"),
        (vectors_of(np.empty((0, 0), np.float32)), "not float32 "),
        (vectors_of(unit_vectors(COUNT, 4), np.arange(3)), "40 vectors, but"),
        (vectors_of(unit_vectors(1, 4), np.array([COUNT])), "a row is not in 0..39"),
        (vectors_of(unit_vectors(1, 4), np.array([-1])), "a row is not in 0..39"),
        (vectors_of(unit_vectors(2, 4), np.array([5, 5])), "a product has two vectors"),
    ],
)
def test_bad_vectors_are_refused_with_their_row_and_reason(
    tmp_path: Path, space_vectors: SpaceVectors, reason: str
) -> None:
    with pytest.raises(BadArtifact, match=reason):
        build(tmp_path, catalogue(COUNT), {IMAGE: space_vectors}, shards=1)
    assert not (tmp_path / version.CURRENT).exists()


@pytest.mark.parametrize("shards", [0, 5000])
def test_a_number_of_shards_out_of_range_is_refused(tmp_path: Path, shards: int) -> None:
    with pytest.raises(OperatorError, match="shards: not in"):
        build(tmp_path, catalogue(1), {}, shards=shards)


@pytest.mark.parametrize("interrupted_at", [1, 3, 5])
def test_an_interrupted_build_leaves_the_serving_version_unchanged(tmp_path: Path, interrupted_at: int) -> None:
    def interrupt(what: str, done: int, total: int) -> None:
        if done == interrupted_at:
            raise KeyboardInterrupt

    first = build(tmp_path, catalogue(COUNT), {}, shards=1)
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(unit_vectors(COUNT, 8))}
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path, catalogue(COUNT), spaces, shards=2, progress=interrupt)
    assert version.read_current(tmp_path) == first
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "CURRENT", first}
    assert build(tmp_path, catalogue(COUNT), spaces, shards=2) == version.read_current(tmp_path)


def test_the_next_build_removes_what_a_killed_build_left(tmp_path: Path) -> None:
    (tmp_path / ".building" / "shard-00000").mkdir(parents=True)
    name = build(tmp_path, catalogue(3), {}, shards=1)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "CURRENT", name}


def test_a_location_allows_one_build_at_a_time(tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(OperatorError, match="another build is under way"):
            build(tmp_path, catalogue(3), {}, shards=1)


def test_a_location_that_cannot_be_written_is_an_operator_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="file"):
        build(tmp_path / "file", catalogue(3), {}, shards=1)


def test_building_again_replaces_a_damaged_version(tmp_path: Path) -> None:
    name = build(tmp_path, catalogue(3), {}, shards=1)
    damaged = tmp_path / name / "shard-00000" / "attributes.arrow"
    damaged.write_bytes(damaged.read_bytes()[:-8])
    with pytest.raises(LookalikeError, match=r"attributes\.arrow: has"):
        open_shard(tmp_path, 0)
    assert build(tmp_path, catalogue(3), {}, shards=1) == name
    assert len(open_shard(tmp_path, 0).base.table) == 3


def test_a_version_that_exists_already_is_not_trained_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(3000, 32))}
    name = build(tmp_path, catalogue(3000), spaces, shards=1, exact_floats=1000)
    monkeypatch.setattr(factory, "train_index", None)
    assert build(tmp_path, catalogue(3000), spaces, shards=1, exact_floats=1000) == name
