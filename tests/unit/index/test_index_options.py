"""The options of a build: recipe, type of the full vectors, target recall."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import IndexOptions, Progress, SpaceVectors, build
from index.building.build_command import main as build_command
from index.search import space
from index.serving.shard_version import open_shard
from index.storage.names import VECTORS
from index.storage.vectors import PAGE_BYTES
from lookalike.errors import BadArtifact, BadCatalogue, BadSettings
from lookalike.releases import version
from lookalike.v1.index_pb2 import ShardQuery
from lookalike.vectors import unpack
from tests.unit.index.samples import IMAGE, catalogue, clustered, query_vector, vectors_of

COUNT, DIM = 1500, 32


def build_version(
    location: Path, options: IndexOptions, *, shards: int = 1, count: int = COUNT, progress: Progress | None = None
) -> str:
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(count, DIM))}
    return build(location, catalogue(count), spaces, shards=shards, options=options, progress=progress)


@pytest.mark.parametrize(
    "recipe",
    [
        "Flat",
        "IVF,PQ4fs",
        "OPQ8_16,IVF,PQ8x4fs",
        "IVF,Flat",
        "IVF,SQ8",
        "IVF,RaBitQ",
        "PCAR16,IVF,SQ4",
        "HNSW8",
        "PCAR16,HNSW8",
        "NGT",
    ],
)
def test_an_index_of_every_recipe_is_built_verified_and_searched(tmp_path: Path, recipe: str) -> None:
    build_version(tmp_path, IndexOptions(recipe=recipe, recall=0.5))
    shard = open_shard(tmp_path, 0)
    space_index = shard.base.spaces[IMAGE]
    assert (space_index.entry.recipe == "Flat") == (recipe == "Flat") == (space_index.ann_index is None)
    (hits,) = shard.search([ShardQuery(vectors=[query_vector(IMAGE, clustered(COUNT, DIM)[7])], k=5)]).results
    assert hits.ids[0] == "p7"
    assert unpack(hits.scores, 5)[0][0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("recipe", ["IVF,PQ4fs", "HNSW8,SQ8", "NGT"])
def test_shards_of_few_vectors_or_none_are_searched_exactly_whatever_the_recipe(tmp_path: Path, recipe: str) -> None:
    build_version(tmp_path, IndexOptions(recipe=recipe), shards=3, count=2)
    shards = [open_shard(tmp_path, shard) for shard in range(3)]
    query = ShardQuery(vectors=[query_vector(IMAGE, clustered(2, DIM)[0])], k=1000)
    ids_by_shard = [list(shard.search([query]).results[0].ids) for shard in shards]
    assert sorted(product for ids in ids_by_shard for product in ids) == ["p0", "p1"]
    assert [] in ids_by_shard


def test_float16_takes_half_the_disk_and_scores_are_of_the_stored_vectors(tmp_path: Path) -> None:
    for rescore in ("float32", "float16"):
        build_version(tmp_path / rescore, IndexOptions(rescore=rescore))
    full, half = (next((tmp_path / rescore).rglob(VECTORS)) for rescore in ("float32", "float16"))
    assert (full.stat().st_size, half.stat().st_size) == (PAGE_BYTES + COUNT * DIM * 4, PAGE_BYTES + COUNT * DIM * 2)
    shard = open_shard(tmp_path / "float16", 0)
    assert shard.manifest.spaces[0].rescore == "float16"
    query = clustered(COUNT, DIM)[7]
    (hits,) = shard.search([ShardQuery(vectors=[query_vector(IMAGE, query)], k=1)]).results
    row = shard.base.table.ids.find(b"p7")
    assert row is not None
    stored = shard.base.spaces[IMAGE].vector(row)
    assert stored is not None
    assert (stored == query.astype(np.float16)).all()
    assert unpack(hits.scores, 1)[0][0] == pytest.approx(float(stored @ query), abs=1e-6)


def test_vectors_begin_on_a_page_and_numpy_reads_them(tmp_path: Path) -> None:
    build_version(tmp_path, IndexOptions())
    (path,) = tmp_path.rglob(VECTORS)
    assert np.load(path, mmap_mode="r").offset == PAGE_BYTES
    assert np.load(path).shape == (COUNT, DIM)


def test_other_options_give_another_version(tmp_path: Path) -> None:
    variants = (
        IndexOptions(),
        IndexOptions(recipe="IVF,SQ8"),
        IndexOptions(rescore="float16"),
        IndexOptions(recall=0.9),
    )
    assert len({build_version(tmp_path / str(number), options) for number, options in enumerate(variants)}) == len(
        variants
    )


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"recipe": "IVF,PQ8"}, "no recipe 'IVF,PQ8'; allowed: auto, Flat"),
        ({"rescore": "int8"}, "rescore 'int8': allowed are float32, float16"),
        ({"recall": 0}, "recall 0: must be above 0"),
        ({"recall": 1.5}, "recall 1.5: must be above 0 and at most 1"),
        ({"recall": float("nan")}, "recall nan"),
        ({"bytes_per_vector": 0}, "bytes per vector 0: must be a number above 0"),
        ({"bytes_per_vector": -1}, "must be a number above 0"),
        ({"bytes_per_vector": float("nan")}, "must be a number above 0"),
        ({"bytes_per_vector": float("inf")}, "must be a number above 0"),
        ({"recipe": "IVF,SQ8", "bytes_per_vector": 100}, "only the recipe auto has a budget"),
    ],
)
def test_options_that_suit_no_vectors_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        IndexOptions(**options)


@pytest.mark.parametrize(
    ("recipe", "reason"),
    [
        ("IVF512,Flat", "512 lists for 1500 vectors, at most 38"),
        ("PCAR64,IVF,SQ8", "vectors of 32 dimensions cannot be rotated to 64"),
    ],
)
def test_a_recipe_that_does_not_suit_the_vectors_is_refused_before_anything_is_written(
    tmp_path: Path, recipe: str, reason: str
) -> None:
    steps: list[str] = []
    with pytest.raises(BadSettings, match=reason):
        build_version(tmp_path, IndexOptions(recipe=recipe), progress=lambda step, *_: steps.append(step))
    assert not steps
    assert not (tmp_path / version.CURRENT).exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    ("recipe", "other"),
    [
        ("IVF,Flat", "HNSW8"),
        ("HNSW8", "IVF,Flat"),
        ("NGT", "IVF,Flat"),
        ("HNSW8", "PCAR16,HNSW8"),
        ("PCAR16,HNSW8", "HNSW8"),
    ],
)
def test_an_index_of_another_recipe_than_the_manifest_states_is_refused(
    tmp_path: Path, recipe: str, other: str
) -> None:
    """By its type, too, and not only by its checksum."""
    entries, folders = {}, {}
    for name in (recipe, other):
        build_version(tmp_path / name, IndexOptions(recipe=name, recall=0.5))
        shard = open_shard(tmp_path / name, 0)
        entries[name] = shard.base.spaces[IMAGE].entry
        (folders[name],) = (path.parent for path in (tmp_path / name).rglob(VECTORS))
    with pytest.raises(BadArtifact, match="codes"):
        space.open_space(folders[recipe], entries[other], documents=COUNT, dim=DIM, rescore="float32")


def test_ids_of_256_bytes_in_any_script_are_read_and_longer_ones_refused(tmp_path: Path) -> None:
    ids = ["商" * 85 + "x", "é" * 128, "\U0001f45f" * 64, "\N{ZERO WIDTH JOINER}", "z" * 256]
    np.save(tmp_path / "base.npy", clustered(5, 8))
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n", encoding="utf-8")
    words = ["--vectors", str(tmp_path / "base.npy"), "--ids", str(tmp_path / "ids.txt"), "--space", "image"]
    assert build_command([*words, str(tmp_path / "index")], {}) == 0
    table = open_shard(tmp_path / "index", 0).base.table
    assert [table.ids.find(product.encode()) is not None for product in ids] == [True] * 5
    with pytest.raises(BadCatalogue, match="has 258 bytes"):
        build(tmp_path / "other", pa.table({"id": ["商" * 86]}), {}, shards=1)
