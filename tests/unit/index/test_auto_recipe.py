"""The recipe `auto`: what it measures, chooses, records and keeps. Measurements are given: no test depends on time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from index.building import auto_recipe
from index.building.auto_recipe import choose_recipe, default_bytes_per_vector, describe
from index.building.build import IndexOptions, build
from index.building.tune_selection import RecipeMeasurement, TuneBudget
from index.building.tune_trial import Sample, bytes_per_vector, candidate_recipes, compact_recipes, fast_recipes
from lookalike.errors import BadSettings
from lookalike.releases import version
from lookalike.releases.manifest import Manifest, RecipeChoice, SpaceEntry, dump_manifest, parse_manifest
from lookalike.vectors import F32
from tests.unit.index.samples import IMAGE, catalogue, clustered, unit_vectors, vectors_of

COUNT, DIM = 3000, 64
VECTORS = unit_vectors(COUNT, DIM)
BUDGET = TuneBudget(documents=100_000, k=10, recall=0.95, bytes_per_vector=default_bytes_per_vector(DIM))


class Measurements:
    """Stands in for `measure_recipe`: each recipe takes the time that is given for it, and reaches the recall."""

    def __init__(self, cpu_ms: Mapping[str, float] | None = None, recall: float = 0.96) -> None:
        self.recall = recall
        self.measured: list[str] = []
        self.samples: list[Sample] = []
        self._cpu_ms = cpu_ms or {}

    def __call__(self, name: str, sample: Sample, budget: TuneBudget, *, seed: int, threads: int) -> RecipeMeasurement:
        self.measured.append(name)
        self.samples.append(sample)
        cpu_ms = self._cpu_ms.get(name, 5.0)
        return RecipeMeasurement(
            recipe=name,
            resolved_recipe=name,
            ram_bytes=bytes_per_vector(name, budget.documents, sample.vectors.shape[1]),
            formula_error=0,
            search_parameter=8,
            refine_factor=4,
            recall_half=self.recall,
            recall_sample=self.recall,
            recall=self.recall,
            cpu_ms_sample=cpu_ms / 2,
            cpu_ms=cpu_ms,
            pages=40,
            training_s=1,
        )


@pytest.fixture
def measurements(monkeypatch: pytest.MonkeyPatch) -> Measurements:
    return replaced(monkeypatch, Measurements({"IVF,PQ4fs": 1.0}))


def replaced(monkeypatch: pytest.MonkeyPatch, measurements: Measurements) -> Measurements:
    monkeypatch.setattr(auto_recipe, "measure_recipe", measurements)
    return measurements


def choose(budget: TuneBudget = BUDGET, previous: RecipeChoice | None = None, vectors: F32 = VECTORS) -> RecipeChoice:
    return choose_recipe(vectors, budget, previous=previous, seed=0, threads=1, progress=lambda what: None)


def test_the_default_budget_is_what_hnsw32_sq8_takes(measurements: Measurements) -> None:
    choice = choose()
    assert measurements.measured == ["IVF,PQ4fs", "IVF,SQ8", "HNSW32,SQ8"]
    assert choice.candidates == tuple(measurements.measured)
    assert all(row.bytes_per_vector <= choice.bytes_per_vector == BUDGET.bytes_per_vector for row in choice.figures)


def test_more_memory_lets_a_larger_and_faster_recipe_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Measurements({"SymQG32": 0.5, "IVF,PQ4fs": 1.0}))
    assert choose().recipe == "IVF,PQ4fs"
    assert choose(replace(BUDGET, bytes_per_vector=1000)).recipe == "SymQG32"


def test_where_no_fast_recipe_fits_the_compact_ones_are_measured(measurements: Measurements) -> None:
    least = min(bytes_per_vector(name, BUDGET.documents, 1024) for name in fast_recipes(1024))
    choice = choose(replace(BUDGET, bytes_per_vector=least - 1), vectors=unit_vectors(1000, 1024))
    assert measurements.measured
    assert set(measurements.measured) <= set(compact_recipes(1024))
    assert choice.recipe in measurements.measured


def test_a_budget_that_no_recipe_fits_is_refused_and_the_smallest_named(measurements: Measurements) -> None:
    smallest = min(candidate_recipes(DIM), key=lambda name: bytes_per_vector(name, BUDGET.documents, DIM))
    with pytest.raises(BadSettings, match=f"at most 3 B per vector in memory: the smallest, {smallest}, takes "):
        choose(replace(BUDGET, bytes_per_vector=3))
    assert not measurements.measured


def test_of_recipes_that_are_nearly_as_fast_the_smallest_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Measurements({"IVF,SQ8": 0.9, "IVF,PQ4fs": 1.0, "HNSW32,SQ8": 0.85}))
    choice = choose()
    assert choice.recipe == "IVF,PQ4fs"
    assert choice.reason.startswith("the smallest of those nearly as fast as HNSW32,SQ8 (up to 1.2 times its CPU)")


def test_a_larger_recipe_is_chosen_for_a_clear_win(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Measurements({"IVF,SQ8": 0.8, "IVF,PQ4fs": 1.0}))
    choice = choose()
    assert (choice.recipe, choice.reason) == ("IVF,SQ8", "the fastest at a recall@10 of 0.95")


def test_where_no_recipe_reaches_the_recall_the_reason_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, Measurements(recall=0.9))
    assert choose().reason == "the nearest to a recall@10 of 0.95, which none reached"


def test_the_queries_of_a_sample_are_not_among_its_vectors(measurements: Measurements) -> None:
    choose()
    for sample in measurements.samples:
        assert len(sample.vectors) + len(sample.queries) == COUNT
        assert float((sample.queries @ sample.vectors.T).max()) < 0.999


@pytest.mark.parametrize("documents", [50_000, 100_000, 200_000])
def test_a_choice_is_kept_while_a_shard_has_about_as_many_vectors(measurements: Measurements, documents: int) -> None:
    previous = replace(choose(), recipe="IVF,SQ8")
    measurements.measured.clear()
    assert choose(replace(BUDGET, documents=documents), previous) is previous
    assert not measurements.measured


@pytest.mark.parametrize(
    "change",
    [{"documents": 200_001}, {"documents": 49_999}, {"recall": 0.9}, {"bytes_per_vector": 100.0}],
    ids=lambda change: next(iter(change)),
)
def test_a_choice_is_measured_anew_for_another_request(measurements: Measurements, change: dict[str, float]) -> None:
    previous = replace(choose(), recipe="IVF,SQ8")
    measurements.measured.clear()
    assert choose(replace(BUDGET, **change), previous).recipe == "IVF,PQ4fs"  # type: ignore[arg-type]  # the fields' types
    assert measurements.measured


def test_a_choice_is_measured_anew_among_other_candidates(measurements: Measurements) -> None:
    previous = replace(choose(), recipe="IVF,SQ8", candidates=("IVF,PQ4fs", "IVF,SQ8"))
    assert choose(previous=previous).recipe == "IVF,PQ4fs"


def test_a_manifest_is_read_with_the_choice_that_was_written(measurements: Measurements) -> None:
    space = SpaceEntry(name="image", dim=DIM, encoder="e", rescore="float32", documents=(), indexes=(), choice=choose())
    manifest = Manifest(version="v", shards=0, seed=0, products=(), spaces=(space,), files={})
    assert parse_manifest(dump_manifest(manifest), "here") == manifest


def test_the_choice_is_described_by_its_budget_reason_and_figures(measurements: Measurements) -> None:
    text = "\n".join(describe(choose()))
    assert "auto: IVF,PQ4fs, the fastest at a recall@10 of 0.95; " in text
    assert f"at most {BUDGET.bytes_per_vector:g} B per vector in memory" in text
    assert "extrapolated to 100,000 in a shard" in text
    for name in measurements.measured:
        size = bytes_per_vector(name, BUDGET.documents, DIM)
        assert f"{size:,.0f} B per vector, recall@10 0.960" in next(
            line for line in text.split("\n") if f" {name} " in line
        )


def built(location: Path, count: int) -> RecipeChoice | None:
    vectors = clustered(count, 32)
    name = build(location, catalogue(count), {IMAGE: vectors_of(vectors)}, shards=1, exact_floats=1000)
    return version.read_manifest(location, name).spaces[0].choice


def test_a_build_records_its_choice_and_the_next_one_keeps_it(tmp_path: Path, measurements: Measurements) -> None:
    first = built(tmp_path, auto_recipe.MIN_DOCUMENTS)
    assert first is not None
    assert first.recipe == "IVF,PQ4fs"
    measurements.measured.clear()
    assert built(tmp_path, auto_recipe.MIN_DOCUMENTS + 100) == first
    assert not measurements.measured


def test_a_choice_among_other_candidates_is_recorded_even_if_the_recipe_is_the_same(
    tmp_path: Path, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise every later build would measure again."""
    monkeypatch.setattr(auto_recipe, "candidate_recipes", lambda dim: ("IVF,PQ4fs",))
    built(tmp_path, auto_recipe.MIN_DOCUMENTS)
    monkeypatch.setattr(auto_recipe, "candidate_recipes", lambda dim: ("IVF,PQ4fs", "IVF,SQ8"))
    choice = built(tmp_path, auto_recipe.MIN_DOCUMENTS)
    assert choice is not None
    assert choice.candidates == ("IVF,PQ4fs", "IVF,SQ8")
    measurements.measured.clear()
    assert built(tmp_path, auto_recipe.MIN_DOCUMENTS) == choice
    assert not measurements.measured


def test_a_space_of_few_vectors_is_not_measured(tmp_path: Path, measurements: Measurements) -> None:
    assert built(tmp_path, 2000) is None
    assert not measurements.measured


def test_a_budget_that_no_recipe_fits_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    steps: list[str] = []
    count = auto_recipe.MIN_DOCUMENTS
    with pytest.raises(BadSettings, match="at most 1 B per vector"):
        build(
            tmp_path,
            catalogue(count),
            {IMAGE: vectors_of(clustered(count, 32))},
            shards=1,
            options=IndexOptions(bytes_per_vector=1),
            exact_floats=1000,
            progress=lambda what, done, total: steps.append(what),
        )
    assert not steps
