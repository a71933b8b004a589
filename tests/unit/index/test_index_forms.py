"""What an index is built as: its recipe, what its full vectors are kept as, what it is to find."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import Form, Progress, SpaceVectors, build
from index.building.bulk import main as built_from_files
from index.search import space
from index.serving.shard_version import open_shard
from index.storage import version
from index.storage.names import VECTORS
from index.storage.vectors import PAGE
from lookalike.errors import BadArtifact, BadCatalogue, BadSettings
from lookalike.v1.index_pb2 import ShardQuery
from lookalike.vectors import unpack
from tests.unit.index.samples import IMAGE, by, catalogue, clustered, vectors_of

COUNT, DIM = 1500, 32


def version_of(
    location: Path, form: Form, *, shards: int = 1, count: int = COUNT, progress: Progress | None = None
) -> str:
    given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(count, DIM))}
    return build(location, catalogue(count), given, shards=shards, form=form, progress=progress)


@pytest.mark.parametrize(
    "recipe",
    ["Flat", "IVF,PQ4fs", "OPQ8_16,IVF,PQ8x4fs", "IVF,Flat", "IVF,SQ8", "IVF,RaBitQ", "PCAR16,IVF,SQ4", "HNSW8", "NGT"],
)
def test_an_index_of_every_kind_is_built_verified_and_searched(tmp_path: Path, recipe: str) -> None:
    version_of(tmp_path, Form(recipe=recipe, recall=0.5))
    shard = open_shard(tmp_path, 0)
    made = shard.base.spaces[IMAGE]
    assert (made.entry.recipe == "Flat") == (recipe == "Flat") == (made.codes is None)
    (hits,) = shard.search([ShardQuery(vectors=[by(IMAGE, clustered(COUNT, DIM)[7])], k=5)]).results
    assert hits.ids[0] == "p7"
    assert unpack(hits.scores, 5)[0][0] == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("recipe", ["IVF,PQ4fs", "HNSW8,SQ8", "NGT"])
def test_shards_of_few_vectors_or_none_are_searched_exactly_whatever_the_recipe(tmp_path: Path, recipe: str) -> None:
    version_of(tmp_path, Form(recipe=recipe), shards=3, count=2)
    shards = [open_shard(tmp_path, shard) for shard in range(3)]
    query = ShardQuery(vectors=[by(IMAGE, clustered(2, DIM)[0])], k=1000)
    found = [list(shard.search([query]).results[0].ids) for shard in shards]
    assert sorted(product for ids in found for product in ids) == ["p0", "p1"]
    assert [] in found


def test_float16_takes_half_the_disk_and_scores_are_of_what_is_kept(tmp_path: Path) -> None:
    for rescore in ("float32", "float16"):
        version_of(tmp_path / rescore, Form(rescore=rescore))
    whole, half = (next((tmp_path / rescore).rglob(VECTORS)) for rescore in ("float32", "float16"))
    assert (whole.stat().st_size, half.stat().st_size) == (PAGE + COUNT * DIM * 4, PAGE + COUNT * DIM * 2)
    shard = open_shard(tmp_path / "float16", 0)
    assert shard.manifest.spaces[0].rescore == "float16"
    query = clustered(COUNT, DIM)[7]
    (hits,) = shard.search([ShardQuery(vectors=[by(IMAGE, query)], k=1)]).results
    row = shard.base.table.ids.find(b"p7")
    assert row is not None
    kept = shard.base.spaces[IMAGE].vector(row)
    assert kept is not None
    assert (kept == query.astype(np.float16)).all()
    assert unpack(hits.scores, 1)[0][0] == pytest.approx(float(kept @ query), abs=1e-6)


def test_vectors_begin_on_a_page_and_numpy_reads_them(tmp_path: Path) -> None:
    version_of(tmp_path, Form())
    (path,) = tmp_path.rglob(VECTORS)
    assert np.load(path, mmap_mode="r").offset == PAGE
    assert np.load(path).shape == (COUNT, DIM)


def test_another_form_is_another_version(tmp_path: Path) -> None:
    forms = (Form(), Form(recipe="IVF,SQ8"), Form(rescore="float16"), Form(recall=0.9))
    assert len({version_of(tmp_path / str(number), form) for number, form in enumerate(forms)}) == len(forms)


@pytest.mark.parametrize(
    ("form", "reason"),
    [
        (Form(recipe="IVF,PQ8"), "no recipe 'IVF,PQ8'; allowed: auto, Flat"),
        (Form(recipe="IVF512,Flat"), "512 lists for 1500 vectors, at most 38"),
        (Form(recipe="PCAR64,IVF,SQ8"), "vectors of 32 dimensions cannot be rotated to 64"),
        (Form(rescore="int8"), "rescore 'int8': allowed are float32, float16"),
        (Form(recall=0), "recall 0: not above 0"),
        (Form(recall=1.5), "recall 1.5: not above 0 and at most 1"),
        (Form(recall=float("nan")), "recall nan"),
    ],
)
def test_a_form_that_cannot_be_is_refused_before_anything_is_written(tmp_path: Path, form: Form, reason: str) -> None:
    steps: list[str] = []
    with pytest.raises(BadSettings, match=reason):
        version_of(tmp_path, form, progress=lambda step, *_: steps.append(step))
    assert not steps
    assert not (tmp_path / version.CURRENT).exists()
    assert not [path for path in tmp_path.iterdir() if path.is_dir()]


@pytest.mark.parametrize(("recipe", "other"), [("IVF,Flat", "HNSW8"), ("HNSW8", "IVF,Flat"), ("NGT", "IVF,Flat")])
def test_codes_of_another_kind_than_the_manifest_says_are_refused(tmp_path: Path, recipe: str, other: str) -> None:
    """By their form, too, and not only by their checksum."""
    entries, folders = {}, {}
    for name in (recipe, other):
        version_of(tmp_path / name, Form(recipe=name, recall=0.5))
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
    assert built_from_files([*words, str(tmp_path / "index")], {}) == 0
    table = open_shard(tmp_path / "index", 0).base.table
    assert [table.ids.find(product.encode()) is not None for product in ids] == [True] * 5
    with pytest.raises(BadCatalogue, match="over 256 bytes"):
        build(tmp_path / "other", pa.table({"id": ["商" * 86]}), {}, shards=1)
