"""`lookalike index tune`: what it measures, carries over and chooses, and what it refuses."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from index.building import bulk, tune
from index.building.tune_choice import Budget, Measured, carried, chosen, excesses, front, nearest
from index.building.tune_trial import candidates, tried
from index.kinds.recipe import resolved
from index.serving.shard_version import open_shard
from index.storage.vectors import PAGE
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from tests.unit.index.samples import IMAGE, clustered

COUNT, DIM = 40_000, 256
BUDGET = Budget(documents=1_000_000, k=10, recall=0.9, bytes_per_vector=48, latency_ms=2)
ROW = Measured(
    recipe="IVF,PQ4fs",
    complete="IVF4096,PQ64x4fs",
    ram_bytes=40,
    formula_off=0,
    search_parameter=8,
    factor=4,
    recall_half=0.95,
    recall_sample=0.94,
    recall=0.92,
    cpu_ms_sample=0.1,
    cpu_ms=1,
    pages=40,
    trained_s=1,
)


def test_recall_is_carried_over_by_what_a_doubling_lost_and_no_gain_is() -> None:
    assert carried(0.97, 0.96, 5) == pytest.approx(0.91)
    assert carried(0.95, 0.96, 5) == 0.96
    assert carried(0.9, 0.5, 5) == 0


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
def test_a_recipe_fails_a_budget_by_name(change: dict[str, float], failed: set[str]) -> None:
    assert excesses(replace(ROW, **change), BUDGET).keys() == failed  # type: ignore[arg-type]  # floats, all of them


def test_the_fastest_that_meets_the_budget_is_chosen_and_of_equals_the_smallest() -> None:
    rows = [
        replace(ROW, recipe="slow", cpu_ms=1.5),
        replace(ROW, recipe="large", ram_bytes=47),
        replace(ROW, recipe="small", ram_bytes=30),
        replace(ROW, recipe="too large", ram_bytes=99, cpu_ms=0.1),
    ]
    best = chosen(rows, BUDGET)
    assert best is not None
    assert best.recipe == "small"
    assert chosen(rows[3:], BUDGET) is None


def test_the_nearest_lacks_the_least() -> None:
    rows = [replace(ROW, recipe="far", ram_bytes=96), replace(ROW, recipe="near", recall=0.88)]
    assert nearest(rows, BUDGET).recipe == "near"


def test_the_front_is_of_those_that_reach_the_recall_each_faster_than_all_that_are_smaller() -> None:
    rows = [
        replace(ROW, recipe="a", ram_bytes=10, cpu_ms=3),
        replace(ROW, recipe="slower", ram_bytes=20, cpu_ms=4),
        replace(ROW, recipe="b", ram_bytes=30, cpu_ms=1),
        replace(ROW, recipe="misses", ram_bytes=5, cpu_ms=1, recall=0.5),
    ]
    assert [row.recipe for row in front(rows, 0.9)] == ["a", "b"]


@pytest.mark.parametrize("dim", [1, 2, 30, 128, 1024, 2048])
def test_every_candidate_can_be_made_of_vectors_of_its_dimension(dim: int) -> None:
    names = candidates(dim)
    assert len(set(names)) == len(names) >= 4
    assert all(resolved(name, 20_000, dim, 0) is not None for name in names)


def test_a_trial_states_what_its_work_finds_takes_and_reads() -> None:
    vectors = clustered(4000, 64)
    budget = Budget(documents=64_000, k=10, recall=0.9, bytes_per_vector=48)
    row = tried("OPQ16_32,IVF,PQ16x4fs", vectors, budget, seed=0, threads=1)
    assert row.complete == "OPQ16_32,IVF512,PQ16x4fs"
    assert row.recall == carried(row.recall_half, row.recall_sample, 4) >= 0.9
    assert abs(row.formula_off) < 0.03
    assert 16 < row.ram_bytes < 24  # 8 of codes, 8 of the id, some of lists and matrix.
    assert 0 < row.pages <= min(10 * row.factor, 4000 * 64 * 4 // PAGE)
    assert row.cpu_ms > row.cpu_ms_sample > 0


def test_what_no_work_reaches_is_told_with_the_most_that_was_tried() -> None:
    budget = Budget(documents=4000, k=10, recall=0.9999, bytes_per_vector=48)
    row = tried("PCAR8,IVF,SQ4", clustered(4000, 64), budget, seed=0, threads=1)
    assert row.recall < 0.9999
    assert (row.search_parameter, row.factor) == (64, 8)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("base") / "base.npy"
    np.save(path, 3 * clustered(COUNT, DIM))
    return path


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two of the candidates, so that a test takes seconds."""
    monkeypatch.setattr(tune, "candidates", lambda dim: ("OPQ32_64,IVF,PQ32x4fs", "IVF,SQ8"))


def words(base: Path, out: Path, *more: str, size: str = "60", recall: str = "0.9") -> list[str]:
    budget = ["--bytes-per-vector", size, "--recall", recall]
    return ["--vectors", str(base), *budget, "--sample", "4000", "--threads", "1", "--out", str(out), *more]


@pytest.mark.usefixtures("few")
def test_the_report_is_written_and_its_command_builds_what_was_chosen(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(words(base, tmp_path / "out", "--json", "--rescore", "float16"), {}) == 0
    found = json.loads(capsys.readouterr().out)
    assert json.loads((tmp_path / "out" / "tune.json").read_text()) == found
    assert (tmp_path / "out" / "tune.png").read_bytes().startswith(b"\x89PNG")
    report = (tmp_path / "out" / "tune.md").read_text()
    assert found["command"] in report
    assert found["chosen"]["recipe"] == "OPQ32_64,IVF,PQ32x4fs"
    assert found["disk_bytes_per_vector"] == 2 * DIM + 8
    *command, place = shlex.split(found["command"])
    assert (command[:3], place) == (["lookalike", "index", "build"], "index")
    with pytest.raises(SystemExit):  # What the vectors say of products, only their owner knows.
        bulk.main([*command[3:], str(tmp_path / "index")], {})
    command[command.index("SPACE")] = "image"
    assert bulk.main([*command[3:], "--threads", "1", str(tmp_path / "index")], {}) == 0
    space = open_shard(tmp_path / "index", 0).base.spaces[IMAGE]
    assert space.entry.recipe == found["chosen"]["complete"]
    assert space.entry.recall_at_10 >= 0.9
    assert space.vectors.dtype == np.float16
    assert space.codes is not None
    assert space.codes.ram_bytes() / COUNT == pytest.approx(found["chosen"]["ram_bytes"], rel=0.02)


@pytest.mark.usefixtures("few")
def test_a_budget_that_nothing_meets_is_an_exit_status_and_names_the_nearest(
    base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune.main(words(base, tmp_path, size="5"), {}) == tune.UNMET
    told = capsys.readouterr().out
    assert "no recipe meets recall@10 of 0.9 with at most 5 B a vector" in told
    assert "the nearest is OPQ32_64,IVF,PQ32x4fs: " in told
    assert "**None meets it.**" in (tmp_path / "tune.md").read_text()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--k", "0"), r"--k 0: not in 1\.\.200"),
        (("--k", "50000"), r"--k 50000: not in 1\.\.200"),
        (("--sample", "100"), "--sample 100: at least 1024"),
        (("--shards", "0"), "--shards 0: not above 0"),
        (("--shards", "2"), "20000 vectors of 256 dimensions in a shard are few"),
        (("--recall", "1"), r"--recall 1\.0: not above 0 and below 1"),
        (("--recall", "nan"), "--recall nan"),
        (("--bytes-per-vector", "-1"), r"--bytes-per-vector -1\.0: not a number above 0"),
        (("--latency-ms", "inf"), "--latency-ms inf: not a number above 0"),
    ],
)
def test_what_makes_no_sense_is_refused_with_the_reason(
    base: Path, tmp_path: Path, more: tuple[str, str], reason: str
) -> None:
    with pytest.raises(BadSettings, match=reason):
        tune.main(words(base, tmp_path, *more), {})


@pytest.mark.parametrize(("value", "reason"), [(np.nan, "not finite"), (np.inf, "not finite"), (0, "zero")])
def test_a_vector_without_a_direction_is_refused_by_its_row(tmp_path: Path, value: float, reason: str) -> None:
    vectors = np.ones((9000, 1000), dtype=np.float32)
    vectors[:] = value
    np.save(tmp_path / "base.npy", vectors)
    with pytest.raises(BadArtifact, match=rf"base\.npy: vector \d+ is {reason}"):
        tune.main(words(tmp_path / "base.npy", tmp_path), {})


def test_a_file_that_holds_no_vectors_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.npy").write_text("0.1 0.2")
    np.save(tmp_path / "one.npy", np.ones(2000, dtype=np.float32))
    np.save(tmp_path / "double.npy", np.ones((2000, 2)))
    for name in ("text.npy", "one.npy", "double.npy", "missing.npy"):
        with pytest.raises(BadArtifact, match=name):
            tune.main(words(tmp_path / name, tmp_path), {})


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_measured(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(tune, "tried")
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="file: no report can be written there: File exists"):
        tune.main(words(base, tmp_path / "file"), {})
