"""The GPU benchmark runs on a fake device in this machine's memory."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, meter


@pytest.mark.slow
def test_the_benchmark_runs_from_vectors_to_the_recall_of_a_served_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "RESULTS", tmp_path)
    options = ["--device", "cpu", "--vectors", "2000", "--queries", "64", "--recipes", "IVF,SQ8", "--result", "tried"]
    monkeypatch.setattr(sys, "argv", ["gpu", *options])
    gpu.main()
    result = json.loads((tmp_path / "tried.json").read_text())
    assert "no figure here is of a GPU" in result["device"]
    assert {(row["where"], row["k"]) for row in result["rows"]} == {(w, k) for w in ("cpu", "host") for k in (10, 100)}
    recalls = [row["recall"] for row in result["rows"]]
    assert min(recalls + [result["served"][f"k={k}"]["recall"] for k in (10, 100)]) > 0.9
