"""`lookalike index tune`: measuring, extrapolating, choosing, and refused options."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.backends.recipe import resolve_recipe
from index.building import build_command, tune
from index.building.tune_selection import (
    RecipeMeasurement,
    TuneBudget,
    budget_excesses,
    extrapolate_recall,
    fastest_within,
    nearest_to,
    pareto_front,
)
from index.building.tune_trial import Sample, candidate_recipes, measure_recipe
from index.serving.shard_version import open_shard
from index.storage.vectors import PAGE_BYTES
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from tests.unit.index.samples import IMAGE, clustered

COUNT, DIM = 40_000, 256
BUDGET = TuneBudget(documents=1_000_000, k=10, recall=0.9, bytes_per_vector=48, latency_ms=2)
ROW = RecipeMeasurement(
    recipe="IVF,PQ4fs",
    resolved_recipe="IVF4096,PQ64x4fs",
    ram_bytes=40,
    formula_error=0,
    search_parameter=8,
    refine_factor=4,
    recall_half=0.95,
    recall_sample=0.94,
    recall=0.92,
    cpu_ms_sample=0.1,
    cpu_ms=1,
    pages=40,
    training_s=1,
)


def test_recall_is_extrapolated_by_the_loss_of_a_doubling_and_gains_are_ignored() -> None:
    assert extrapolate_recall(0.97, 0.96, 5) == pytest.approx(0.91)
    assert extrapolate_recall(0.95, 0.96, 5) == 0.96
    assert extrapolate_recall(0.9, 0.5, 5) == 0


@pytest.mark.parametrize(
    ("change", "failed"),
    [
        ({}, set()),
        ({"ram_bytes": 48.1}, {"bytes"}),
        ({"recall": 0.899}, {"recall"}),
        ({"cpu_ms": 2.1}, {"latency"}),
        ({"ram_bytes": 90, "recall": 0.1}, {"bytes", "recall"}),
    ],
)
def test_each_exceeded_limit_of_the_budget_is_named(change: dict[str, float], failed: set[str]) -> None:
    assert budget_excesses(replace(ROW, **change), BUDGET).keys() == failed  # type: ignore[arg-type]  # floats, all of them


def test_the_fastest_recipe_within_the_budget_is_chosen_and_of_equals_the_smallest() -> None:
    rows = [
        replace(ROW, recipe="slow", cpu_ms=1.5),
        replace(ROW, recipe="large", ram_bytes=47),
        replace(ROW, recipe="small", ram_bytes=30),
        replace(ROW, recipe="too large", ram_bytes=99, cpu_ms=0.1),
    ]
    best = fastest_within(rows, BUDGET)
    assert best is not None
    assert best.recipe == "small"
    assert fastest_within(rows[3:], BUDGET) is None


def test_the_nearest_recipe_exceeds_the_budget_by_the_least() -> None:
    rows = [replace(ROW, recipe="far", ram_bytes=96), replace(ROW, recipe="near", recall=0.88)]
    assert nearest_to(rows, BUDGET).recipe == "near"


def test_the_pareto_front_has_recipes_that_reach_the_recall_each_faster_than_all_smaller_ones() -> None:
    rows = [
        replace(ROW, recipe="a", ram_bytes=10, cpu_ms=3),
        replace(ROW, recipe="slower", ram_bytes=20, cpu_ms=4),
        replace(ROW, recipe="b", ram_bytes=30, cpu_ms=1),
        replace(ROW, recipe="misses", ram_bytes=5, cpu_ms=1, recall=0.5),
    ]
    assert [row.recipe for row in pareto_front(rows, 0.9)] == ["a", "b"]


@pytest.mark.parametrize("dim", [1, 2, 30, 128, 1024, 2048])
def test_every_candidate_recipe_suits_vectors_of_the_dimension(dim: int) -> None:
    names = candidate_recipes(dim)
    assert len(set(names)) == len(names) >= 4
    assert all(resolve_recipe(name, 20_000, dim, 0) is not None for name in names)


def test_a_measurement_has_recall_memory_time_and_pages() -> None:
    vectors = clustered(4000, 64)
    budget = TuneBudget(documents=64_000, k=10, recall=0.9, bytes_per_vector=48)
    row = measure_recipe("OPQ16_32,IVF,PQ16x4fs", Sample.split(vectors), budget, seed=0, threads=1)
    assert row.resolved_recipe == "OPQ16_32,IVF512,PQ16x4fs"
    assert row.recall == extrapolate_recall(row.recall_half, row.recall_sample, 4) >= 0.9
    assert abs(row.formula_error) < 0.03
    assert 16 < row.ram_bytes < 24  # 8 of codes, 8 of the id, some of lists and matrix.
    assert 0 < row.pages <= min(10 * row.refine_factor, 4000 * 64 * 4 // PAGE_BYTES)
    assert row.cpu_ms > row.cpu_ms_sample > 0


def test_an_unreachable_recall_is_measured_at_the_costliest_operating_point() -> None:
    budget = TuneBudget(documents=4000, k=10, recall=0.9999, bytes_per_vector=48)
    row = measure_recipe("PCAR8,IVF,SQ4", Sample.split(clustered(4000, 64)), budget, seed=0, threads=1)
    assert row.recall < 0.9999
    assert (row.search_parameter, row.refine_factor) == (64, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.npy"
    np.save(path, 3 * clustered(COUNT, DIM))
    return path


@pytest.fixture
def two_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only two candidate recipes, so that a test takes seconds."""
    monkeypatch.setattr(tune, "candidate_recipes", lambda dim: ("OPQ32_64,IVF,PQ32x4fs", "IVF,SQ8"))


def arguments(base: Path, out: Path, *more: str, size: str = "60", recall: str = "0.9") -> list[str]:
    budget = ["--bytes-per-vector", size, "--recall", recall]
    return ["--vectors", str(base), *budget, "--sample", "4000", "--threads", "1", "--out", str(out), *more]


@pytest.mark.usefixtures("two_candidates")
def test_the_report_is_written_and_its_command_builds_an_index_with_the_chosen_recipe(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(arguments(base, tmp_path / "out", "--json", "--rescore", "float16"), {}) == 0
    findings = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "tune.json").read_text()) == findings
    assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "out" / "tune.md").read_text()
    assert findings["command"] in report
    assert findings["chosen"]["recipe"] == "OPQ32_64,IVF,PQ32x4fs"
    assert findings["disk_bytes_per_vector"] == 2 * DIM + 8
    *command, location = shlex.split(findings["command"])
    assert (command[:3], location) == (["lookalike", "index", "build"], "index")
    with pytest.raises(SystemExit):  # The user must replace SPACE.
        build_command.main([*command[3:], str(tmp_path / "index")], {})
    command[command.index("SPACE")] = "image"
    assert build_command.main([*command[3:], "--threads", "1", str(tmp_path / "index")], {}) == 0
    space = open_shard(tmp_path / "index", 0).base.spaces[IMAGE]
    assert space.entry.recipe == findings["chosen"]["resolved_recipe"]
    assert space.entry.recall_at_10 >= 0.9
    assert space.vectors.dtype == np.float16
    assert space.ann_index is not None
    assert space.ann_index.ram_bytes() / COUNT == pytest.approx(findings["chosen"]["ram_bytes"], rel=0.02)


@pytest.mark.usefixtures("two_candidates")
def test_where_no_recipe_meets_the_budget_the_exit_status_says_so_and_the_nearest_is_named(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(arguments(base, tmp_path, size="5"), {}) == tune.EXIT_BUDGET_UNMET
    printed = capsys.readouterr().out
    assert "no recipe meets recall@10 of 0.9 with at most 5 B per vector" in printed
    assert "the nearest is OPQ32_64,IVF,PQ32x4fs: " in printed
    assert "**No recipe meets the budget.**" in (tmp_path / "tune.md").read_text()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (("--k", "0"), r"--k 0: must be in 1\.\.200"),
        (("--k", "50000"), r"--k 50000: must be in 1\.\.200"),
        (("--sample", "100"), "--sample 100: must be at least 1024"),
        (("--shards", "0"), "--shards 0: must be above 0"),
        (("--shards", "2"), "20000 vectors of 256 dimensions in a shard are few"),
        (("--recall", "1"), r"--recall 1\.0: must be above 0 and below 1"),
        (("--recall", "nan"), "--recall nan"),
        (("--bytes-per-vector", "-1"), r"--bytes-per-vector -1\.0: must be a number above 0"),
        (("--latency-ms", "inf"), "--latency-ms inf: must be a number above 0"),
    ],
)
def test_options_out_of_range_are_refused_with_the_reason(
    base: Path, tmp_path: Path, options: tuple[str, str], reason: str
) -> None:
    with pytest.raises(BadSettings, match=reason):
        tune.main(arguments(base, tmp_path, *options), {})


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "zero")])
def test_a_vector_that_is_zero_or_not_finite_is_refused_and_its_row_named(
    tmp_path: Path, value: float, reason: str
) -> None:
    vectors = np.ones((9000, 1000), dtype=np.float32)
    vectors[:] = value
    np.save(tmp_path / "base.npy", vectors)
    with pytest.raises(BadArtifact, match=rf"base\.npy: vector \d+ is {reason}"):
        tune.main(arguments(tmp_path / "base.npy", tmp_path), {})


def test_a_file_without_vectors_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("0.1 0.2")
    np.save(tmp_path / "one.npy", np.ones(2000, dtype=np.float32))
    np.save(tmp_path / "complex.npy", np.ones((2000, 2), dtype=np.complex64))
    for name in ("text.npy", "one.npy", "complex.npy", "missing.npy"):
        with pytest.raises(BadArtifact, match=name):
            tune.main(arguments(tmp_path / name, tmp_path), {})


def test_a_folder_that_cannot_be_written_is_reported_before_anything_is_measured(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tune, "measure_recipe")
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="file: the report cannot be written there: File exists"):
        tune.main(arguments(base, tmp_path / "file"), {})
