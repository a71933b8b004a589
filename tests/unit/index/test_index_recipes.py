"""Recipes: what factory strings mean, and which are refused."""

from __future__ import annotations

import sys

import pytest

from index.backends import factory
from index.backends.recipe import ALLOWED, NgtRecipe, parse_recipe, resolve_recipe
from index.building.calibration import EXACT_FLOATS
from lookalike.errors import BadSettings
from tests.unit.index.samples import unit_vectors

N, DIM = 100_000, 1024


@pytest.mark.parametrize(
    ("name", "resolved"),
    [
        ("IVF,Flat", "IVF1024,Flat"),
        ("IVF512,SQ8", "IVF512,SQ8"),
        ("IVF,SQ4", "IVF1024,SQ4"),
        ("IVF,PQ4fs", "IVF1024,PQ256x4fs"),
        ("IVF,PQ64x4fs", "IVF1024,PQ64x4fs"),
        ("OPQ64_256,IVF,PQ64x4fs", "OPQ64_256,IVF1024,PQ64x4fs"),
        ("IVF,PQ64x8", "IVF1024,PQ64x8"),
        ("OPQ64_256,IVF,PQ64x8", "OPQ64_256,IVF1024,PQ64x8"),
        ("PCAR128,IVF,RaBitQ", "PCAR128,IVF1024,RaBitQ"),
        ("IVF64,RaBitQfs", "IVF64,RaBitQfs"),
        ("HNSW32", "HNSW32"),
        ("HNSW16,SQ8", "HNSW16,SQ8"),
        ("PCAR256,HNSW24,SQ8", "PCAR256,HNSW24,SQ8"),
        ("PCAR384,HNSW32", "PCAR384,HNSW32"),
        ("SymQG32", "SymQG32"),
        ("PCAR256,SymQG64", "PCAR256,SymQG64"),
        ("NGT", "NGT"),
        ("SQfp16", "SQfp16"),
        ("auto", "IVF1024,PQ256x4fs"),
    ],
)
def test_parameters_that_a_recipe_leaves_out_follow_from_the_vectors(name: str, resolved: str) -> None:
    recipe = resolve_recipe(name, N, DIM, EXACT_FLOATS)
    assert str(recipe) == resolved
    assert parse_recipe(resolved) == recipe


@pytest.mark.parametrize("documents", [1, 255, 256, EXACT_FLOATS // DIM])
def test_auto_searches_a_small_space_exactly_and_any_recipe_a_tiny_one(documents: int) -> None:
    assert resolve_recipe("auto", documents, DIM, EXACT_FLOATS) is None
    assert (resolve_recipe("IVF,PQ4fs", documents, DIM, EXACT_FLOATS) is None) == (documents < 256)


def test_flat_is_exact_search_at_any_size() -> None:
    assert resolve_recipe("Flat", N, DIM, 0) is None


@pytest.mark.parametrize(
    "name",
    [
        "",
        "flat",
        "IVF",
        "IVF,PQ8",
        "HNSW",
        "HNSW32,PQ4fs",
        "OPQ32_128,HNSW32",
        "SymQG",
        "SymQG32,SQ8",
        "PCAR,SymQG32",
        "IVF-1,Flat",
        "ivf,Flat",
        "auto ",
    ],
)
def test_an_unknown_recipe_is_refused_and_the_allowed_ones_named(name: str) -> None:
    with pytest.raises(BadSettings) as refused:
        resolve_recipe(name, N, DIM, EXACT_FLOATS)
    assert ALLOWED in str(refused.value)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("IVF4096,Flat", "4096 lists for 100000 vectors, at most 2564"),
        ("IVF,PQ100x4fs", "100 codes do not divide 1024 dimensions"),
        ("OPQ64_2048,IVF,PQ64x4fs", "vectors of 1024 dimensions cannot be rotated to 2048"),
        ("OPQ64_100,IVF,PQ64x4fs", "64 codes do not divide 100 dimensions"),
        ("OPQ32_256,IVF,PQ64x4fs", "OPQ<codes>_<dim> goes with PQ<codes>"),
        ("OPQ32_256,IVF,SQ8", "OPQ<codes>_<dim> goes with PQ<codes>"),
        ("PCAR256,IVF,PQ64x4fs", "PCAR<dim> with all others"),
        ("HNSW1", r"a node has 2\.\.256 links"),
        ("HNSW999", r"a node has 2\.\.256 links"),
        ("PCAR2048,HNSW32", "vectors of 1024 dimensions cannot be rotated to 2048"),
        ("SymQG16", "a node has 32, 64, 96, 128 links"),
        ("PCAR32,SymQG32", "needs 64 dimensions at least, not 32"),
        ("PCAR1025,SymQG32", "vectors of 1024 dimensions cannot be rotated to 1025"),
    ],
)
def test_a_recipe_that_does_not_suit_the_vectors_is_refused_with_the_reason(name: str, reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        resolve_recipe(name, N, DIM, EXACT_FLOATS)


def test_without_ngt_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ngtpy", None)
    with pytest.raises(BadSettings, match="pip install ngt"):
        factory.train_index(NgtRecipe(), unit_vectors(2000, 8), 0, 1)
