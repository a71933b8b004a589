"""Inverted lists without ids, against faiss's own with the same codes. What every index must do: tests/contract."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.backends import ivf
from index.backends.compact_lists import CompactLists
from index.backends.faiss_support import faiss
from index.backends.fast_scan_lists import FastScanLists
from index.backends.ivf import IvfIndex
from index.backends.recipe import IvfRecipe, resolve_recipe
from index.building.calibration import draw_queries
from lookalike.errors import BadArtifact
from lookalike.vectors import F32
from tests.unit.index.samples import clustered

COUNT, DIM = 3_000, 32
RECIPES = ("IVF16,RaBitQ", "IVF16,SQ8", "IVF16,SQ4", "IVF16,Flat", "IVF16,PQ8x8", "PCAR16,IVF16,RaBitQ")


def recipe_of(name: str) -> IvfRecipe:
    recipe = resolve_recipe(name, COUNT, DIM, 0)
    assert isinstance(recipe, IvfRecipe)
    return recipe


def compact(name: str, vectors: F32) -> IvfIndex:
    index = ivf.train(recipe_of(name), vectors, 0, 1)
    assert isinstance(index.lists, CompactLists)
    return index


def with_ids(index: IvfIndex) -> IvfIndex:
    """The same index as faiss keeps it."""
    return IvfIndex(FastScanLists(index.lists.copy_with_ids()), index.recipe)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize(("count", "nprobe"), [(1, 1), (40, 1), (40, 4), (500, 16), (4_000, 16), (40, 99)])
def test_the_same_candidates_are_found_as_with_ids(name: str, count: int, nprobe: int) -> None:
    """Also where fewer vectors are in the lists than are asked for, and where more lists than there are."""
    vectors = clustered(COUNT + 16, DIM)
    index, queries = compact(name, vectors[:COUNT]), vectors[COUNT:]
    found, expected = (each.find_candidates(queries, count, nprobe) for each in (index, with_ids(index)))
    assert found.shape == expected.shape
    assert ((found >= 0) == (expected >= 0)).all()
    same = [len(np.intersect1d(*pair)) for pair in zip(found, expected, strict=True)]
    assert sum(same) >= 0.99 * sum(len(np.unique(each)) for each in expected)  # Those of equal estimates may differ.


def test_lists_without_vectors_are_searched_and_written(tmp_path: Path) -> None:
    vectors = clustered(COUNT, DIM)
    index = compact("IVF16,RaBitQ", vectors).with_vectors(np.repeat(vectors[:1], 300, axis=0))
    index.write(tmp_path / "codes")
    for each in (index, ivf.read_index(tmp_path / "codes", index.recipe)):
        assert sorted(each.find_candidates(vectors[:1], 300, 16)[0].tolist()) == list(range(300))


def test_all_visible_candidates_are_found_however_many_of_the_best_are_hidden() -> None:
    vectors = clustered(COUNT, DIM)
    index = compact("IVF16,Flat", vectors)
    best = index.find_candidates(vectors[:1], COUNT, 16)[0]
    with index.without(best[:1_000], vectors) as (remaining, _):
        assert remaining.find_candidates(vectors[:1], 40, 16)[0].tolist() == best[1_000:1_040].tolist()
        assert (remaining.find_candidates(vectors[:1], COUNT, 16)[0] >= 0).sum() == COUNT - 1_000


def test_hiding_vectors_costs_no_recall_against_an_index_that_does_not_hold_them() -> None:
    vectors = clustered(COUNT, DIM)
    hidden = draw_queries(COUNT, 0)
    index = compact("IVF16,SQ8", vectors)
    others = np.delete(np.arange(COUNT), hidden)
    queries = np.ascontiguousarray(vectors[hidden[:16]])
    with index.without(hidden, vectors) as (remaining, _):
        found = remaining.find_candidates(queries, 40, 16)
    expected = others[index.with_vectors(vectors[others]).find_candidates(queries, 40, 16)]
    assert (np.sort(found) == np.sort(expected)).mean() > 0.99


def test_searches_go_on_while_other_copies_of_an_index_are_made_and_freed() -> None:
    """Each index unmaps its own codes, once: another's memory may lie there next."""
    vectors = clustered(COUNT, DIM)
    index = compact("PCAR16,IVF16,RaBitQ", vectors)
    expected = index.find_candidates(vectors[:16], 40, 4)

    def search(_: int) -> bool:
        return bool((index.find_candidates(vectors[:16], 40, 4) == expected).all())

    with ThreadPoolExecutor(4) as pool:
        answers = pool.map(search, range(200))
        for _ in range(20):
            copy = index.with_vectors(vectors)
            assert (copy.find_candidates(vectors[:16], 40, 4) == expected).all()
            del copy
            gc.collect()
        assert all(answers)


def test_whoever_adds_vectors_to_lists_frees_the_centroids_that_were_for_that(monkeypatch: pytest.MonkeyPatch) -> None:
    """faiss's Python classes give an index that is assigned to another one away, and it is not taken back by itself."""
    made, flat = [], faiss.IndexFlatIP

    def make(dim: int) -> Any:
        made.append(flat(dim))
        return made[-1]

    vectors = clustered(COUNT, DIM)
    index = compact("IVF16,SQ8", vectors)
    monkeypatch.setattr(faiss, "IndexFlatIP", make)
    index.with_vectors(vectors)
    assert [each.this.own() for each in made] == [True]


def test_an_index_is_searched_after_the_one_it_was_trained_with_is_gone() -> None:
    vectors = clustered(COUNT, DIM)
    index = compact("PCAR16,IVF16,RaBitQ", vectors)
    expected, copy, faiss_copy = (
        index.find_candidates(vectors[:16], 40, 4),
        index.with_vectors(vectors),
        with_ids(index),
    )
    del index
    gc.collect()
    assert (copy.find_candidates(vectors[:16], 40, 4) == expected).all()
    assert (faiss_copy.find_candidates(vectors[:16], 40, 4) == expected).mean() > 0.99


def test_memory_is_what_the_codes_and_positions_take() -> None:
    """A vector: 4 B of bits, 8 B of factors, 12 bits of position."""
    vectors = clustered(COUNT, DIM)
    index = compact("IVF16,RaBitQ", vectors)
    small = index.with_vectors(vectors[: COUNT // 2])
    per_vector = (index.ram_bytes() - small.ram_bytes()) / (COUNT - COUNT // 2)
    assert 4 + 8 + 12 / 8 <= per_vector < 4 + 8 + 2
    assert with_ids(index).ram_bytes() - index.ram_bytes() > 6 * COUNT


@pytest.mark.parametrize("name", ["index", "sizes.npy", "codes.npy", "positions.npy"])
def test_a_truncated_or_missing_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    index = compact("IVF16,RaBitQ", clustered(COUNT, DIM))
    index.write(tmp_path / "codes")
    file = tmp_path / "codes" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises(BadArtifact, match="codes"):
        ivf.read_index(tmp_path / "codes", index.recipe)
    file.unlink()
    with pytest.raises(BadArtifact, match=name):
        ivf.read_index(tmp_path / "codes", index.recipe)


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    vectors = clustered(COUNT, DIM)
    index = compact("IVF16,RaBitQ", vectors)
    index.write(tmp_path / "all")
    index.with_vectors(vectors[:-1]).write(tmp_path / "fewer")
    for name, reason in (("sizes", r"codes\.npy"), ("codes", r"codes\.npy"), ("positions", r"positions\.npy")):
        (tmp_path / name).mkdir()
        for each in ("index", "sizes.npy", "codes.npy", "positions.npy"):
            source = "fewer" if each.startswith(name) else "all"
            (tmp_path / name / each).write_bytes((tmp_path / source / each).read_bytes())
        with pytest.raises(BadArtifact, match=reason):
            ivf.read_index(tmp_path / name, index.recipe)
    with pytest.raises(BadArtifact, match="16 lists, expected 8"):
        ivf.read_index(tmp_path / "all", recipe_of("IVF8,RaBitQ"))
