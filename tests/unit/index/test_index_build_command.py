"""`lookalike index build` and `lookalike index inspect`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.building import build_command, inspect
from index.serving.shard_version import open_shard
from lookalike.errors import BadArtifact, BadCatalogue, OperatorError
from lookalike.releases.location import Directory
from lookalike.spaces import VECTOR_SPACES
from lookalike.v1.types_pb2 import Filter, Product, Space
from tests import stores
from tests.unit.index.samples import unit_vectors

COUNT = 20


@pytest.fixture
def base(tmp_path: Path) -> Path:
    np.save(tmp_path / "base.npy", unit_vectors(COUNT, 8) * 3)
    return tmp_path


def build_index(base: Path, *more: str) -> None:
    words = ["--vectors", str(base / "base.npy"), "--space", "image", *more, str(base / "index")]
    assert build_command.main(words, {}) == 0


def ids_file(base: Path, lines: Sequence[str]) -> str:
    (base / "ids.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(base / "ids.txt")


def attributes_file(base: Path, table: pa.Table) -> str:
    pq.write_table(table, base / "attributes.parquet")
    return str(base / "attributes.parquet")


def test_without_ids_products_are_numbered(base: Path) -> None:
    build_index(base)
    assert set(open_shard(base / "index", 0).page(Filter(), "").ids) == {str(row) for row in range(COUNT)}


def test_ids_and_attributes_come_from_their_files(base: Path) -> None:
    ids = [f"商品{row}" for row in range(COUNT)]
    table = pa.table({"id": ids[::-1][:15], "price": list(range(15)), "shop": ["店"] * 15, "tags": [["x", "a"]] * 15})
    build_index(base, "--ids", ids_file(base, ids), "--attributes", attributes_file(base, table))
    shard = open_shard(base / "index", 0)
    assert shard.count(Filter(shop_in=["店"])) == 15
    assert list(shard.page(Filter(shop_in=["店"], max_price=0), "").ids) == ["商品19"]
    tagged, bare = (Product.FromString(shard.base.table.products[row]) for row in (19, 0))
    assert (list(tagged.tags), list(bare.tags)) == (["a", "x"], [])


@pytest.mark.parametrize("dtype", ["<f8", ">f4", ">f8", "<f2", "i1", "<u2"])
def test_vectors_of_other_types_are_cast_and_that_is_told(
    base: Path, dtype: str, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = np.random.default_rng(0).integers(1, 100, (COUNT, 8)).astype(dtype)
    np.save(base / "base.npy", vectors)

    build_index(base)

    shard = open_shard(base / "index", 0)
    np.testing.assert_array_equal(build_command.read_vectors(base / "base.npy"), vectors.astype(np.float32))
    assert shard.count(Filter()) == COUNT
    assert "is cast to float32" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", ["<i4", "<i8", "<c8", "?", "<U4"])
def test_vectors_that_float32_does_not_hold_are_refused(base: Path, dtype: str) -> None:
    np.save(base / "base.npy", np.ones((COUNT, 8)).astype(dtype))

    with pytest.raises(BadArtifact, match="not an array of floats"):
        build_index(base)


def test_a_vector_that_is_infinite_when_cast_is_refused_with_its_row(base: Path) -> None:
    vectors = np.ones((COUNT, 8))
    vectors[3, 2] = 1e300
    np.save(base / "base.npy", vectors)

    with pytest.raises(BadArtifact, match="vector 3 is not finite"):
        build_index(base)


@pytest.mark.parametrize(
    "ids", [np.arange(5.0, 5.0 + COUNT), np.arange(5, 5 + COUNT), np.array([f"{n}" for n in range(5, 5 + COUNT)])]
)
def test_ids_in_a_numpy_file_are_whole_numbers_or_texts(base: Path, ids: np.ndarray) -> None:
    np.save(base / "ids.npy", ids)
    attributes = pa.table({"id": [5.0, 6.0], "shop": ["a", "b"]})

    build_index(base, "--ids", str(base / "ids.npy"), "--attributes", attributes_file(base, attributes))

    shard = open_shard(base / "index", 0)
    assert set(shard.page(Filter(), "").ids) == {str(row) for row in range(5, 5 + COUNT)}
    assert list(shard.page(Filter(shop_in=["b"]), "").ids) == ["6"]


@pytest.mark.parametrize("bad", [1.5, np.nan, np.inf, 2.0**60])
def test_an_id_that_is_not_a_whole_number_is_refused(base: Path, bad: float) -> None:
    np.save(base / "ids.npy", np.array([bad, *range(1, COUNT)]))

    with pytest.raises(BadCatalogue, match=r"id 1: .* is not a whole number"):
        build_index(base, "--ids", str(base / "ids.npy"))


@pytest.mark.parametrize("space", VECTOR_SPACES)
def test_an_index_of_every_space_is_built_and_inspected_under_its_name(
    base: Path, space: str, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(base, "--space", space)
    assert list(open_shard(base / "index", 0).base.spaces) == [Space.Value(f"SPACE_{space.upper()}")]
    assert f"{space} 8-d" in capsys.readouterr().out
    assert inspect.main([str(base / "index"), "--json"], {}) == 0
    assert [entry["name"] for entry in json.loads(capsys.readouterr().out)["spaces"]] == [space]


def test_the_space_auto_is_refused_because_no_vector_is_in_it(base: Path) -> None:
    with pytest.raises(SystemExit):
        build_index(base, "--space", "auto")


@pytest.mark.parametrize("flag", [("--seed", "-1"), ("--seed", "5000000000"), ("--threads", "-1")])
def test_a_number_out_of_range_is_refused_and_its_flag_named(
    base: Path, flag: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exited:
        build_index(base, *flag)
    assert exited.value.code == 2
    assert f"argument {flag[0]}: {flag[1]} is not in 0.." in capsys.readouterr().err


def test_a_version_that_cannot_take_changes_to_the_one_before_says_which(
    base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build_index(base)
    build_index(base, "--seed", "1")
    assert "notice" not in capsys.readouterr().err
    build_index(base, "--shards", "2", "--encoder", "another")
    told = capsys.readouterr().err
    assert "image vectors of changes (its encoder is another, before vectors)" in told
    np.save(base / "base.npy", np.load(base / "base.npy")[:, :4])
    build_index(base, "--shards", "2", "--encoder", "another")
    assert "changes with image vectors (4 dimensions, before 8)" in capsys.readouterr().err
    build_index(base, "--shards", "2", "--space", "text")  # The last --space counts.
    assert "image vectors of changes (it has no such space)" in capsys.readouterr().err


def test_the_result_can_be_printed_as_json(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_index(base, "--json", "--shards", "2", "--encoder", "mine")
    report = json.loads(capsys.readouterr().out)
    assert (report["products"], report["shards"], report["recall_at_10"]) == (COUNT, 2, 1.0)
    assert inspect.main([str(base / "index"), "--json", "--verify"], {}) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["version"], printed["spaces"][0]["encoder"]) == (report["version"], "mine")
    assert printed["verified_bytes"] == sum(file["bytes"] for file in printed["files"].values())


def test_an_index_at_a_url_is_built_on_this_machine_and_uploaded(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store, staging = stores.in_memory(), tmp_path / "staging"
    words = ["--vectors", str(base / "base.npy"), "--space", "image", "--json", "--staging", str(staging)]
    names = []
    for seed in ("1", "2"):
        assert build_command.main([*words, "--seed", seed, str(store)], {}) == 0
        names.append(json.loads(capsys.readouterr().out)["version"])
        assert store.current() == names[-1]
    assert store.list_versions() == sorted(names)
    assert store.verify(store.read_manifest(names[0]))
    assert Directory(staging).list_versions() == [names[1]]  # The one uploaded before is removed from staging.
    assert build_command.main([*words[:4], "--seed", "1", str(store)], {}) == 0  # With a temporary staging directory.
    assert store.current() == names[0]


def test_a_built_index_can_be_inspected_and_verified(base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    build_index(base)
    assert inspect.main([str(base / "index"), "--verify"], {}) == 0
    printed = capsys.readouterr().out
    assert f"{COUNT} products" in printed
    assert "verified: 3 files" in printed


def test_inspecting_a_damaged_index_names_the_file(base: Path) -> None:
    build_index(base)
    (file,) = (base / "index").rglob("vectors.npy")
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert inspect.main([str(base / "index")], {}) == 0
    with pytest.raises(BadArtifact, match=r"vectors\.npy: damaged"):
        inspect.main([str(base / "index"), "--verify"], {})


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (["x"] * COUNT, "line 2: the id 'x' is already that of .* line 1"),
        (["a", "", "b"], "line 2: an id has 1..256 bytes, not 0"),
        (["a", "é" * 129], "line 2: an id has 1..256 bytes, not 258"),
        (["a", "b"], "2 ids for 20 vectors"),
        ([], "line 1: an id has 1..256 bytes, not 0"),
    ],
)
def test_bad_ids_are_refused_with_their_line(base: Path, lines: list[str], reason: str) -> None:
    with pytest.raises(BadCatalogue, match=reason):
        build_index(base, "--ids", ids_file(base, lines))


def test_ids_that_are_not_utf8_are_refused_with_their_line(base: Path) -> None:
    (base / "ids.txt").write_bytes(b"a\n\xff\n")
    with pytest.raises(BadCatalogue, match="line 2: not UTF-8"):
        build_index(base, "--ids", str(base / "ids.txt"))


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pa.table({"id": ["0", "x"]}), "row 1: no vector has the id 'x'"),
        (pa.table({"id": ["0", "0"]}), "row 1: the id '0' is already that of row 0"),
        (pa.table({"id": ["0"], "size": [1]}), "unknown columns"),
        (pa.table({"id": ["0"], "price": ["1"]}), "column price is string"),
        (pa.table({"title": ["0"]}), "no column `id`"),
    ],
)
def test_bad_attributes_are_refused_with_their_row(base: Path, table: pa.Table, reason: str) -> None:
    with pytest.raises(BadCatalogue, match=reason):
        build_index(base, "--attributes", attributes_file(base, table))


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(5, np.float32),
        np.zeros((0, 4), np.float32),
        np.array([["a"]]),
        np.array([{}]),
    ],
)
def test_an_array_of_another_type_or_shape_is_refused(
    base: Path, array: np.ndarray[tuple[int, ...], np.dtype[np.void]]
) -> None:
    np.save(base / "base.npy", array)
    with pytest.raises(BadArtifact, match=r"base\.npy"):
        build_index(base)


def test_missing_files_and_files_of_another_format_are_refused_by_name(base: Path) -> None:
    (base / "ids.txt").write_text("x")
    with pytest.raises(OperatorError, match=r"ids\.txt"):
        build_index(base, "--attributes", str(base / "ids.txt"))
    with pytest.raises(OperatorError, match=r"none\.parquet: no such file"):
        build_index(base, "--attributes", str(base / "none.parquet"))
    with pytest.raises(OperatorError, match="missing"):
        build_index(base, "--ids", str(base / "missing"))
    (base / "base.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(OperatorError, match=r"base\.npy"):
        build_index(base)
    np.savez(base / "archive.npz", unit_vectors(2, 2))
    (base / "archive.npz").rename(base / "base.npy")
    with pytest.raises(OperatorError, match=r"base\.npy: not a \.npy file"):
        build_index(base)
    (base / "base.npy").write_text("0.1 0.2")
    with pytest.raises(OperatorError, match=r"base\.npy: not a \.npy file"):
        build_index(base)
    (base / "base.npy").write_bytes(b"")
    with pytest.raises(OperatorError, match=r"base\.npy: not a \.npy file"):
        build_index(base)
