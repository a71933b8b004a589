"""`python -m benchmarks.serving`: systems run, are measured at one recall, and what cannot run is left out."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from benchmarks.serving import __main__ as serving
from benchmarks.serving.system import Environment, Site, Skipped
from lookalike.local.supervisor import Supervisor


@pytest.mark.slow
def test_one_command_measures_our_processes_and_bare_faiss_and_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--documents", "2000", "--seconds", "0.3", "--rate", "50", "--recipe", "HNSW32,SQ8"]
    folders = ["--cache", str(tmp_path / "cache"), "--results", str(tmp_path)]
    systems = ["--systems", "gateway,node,node-batch,faiss,qdrant"]
    monkeypatch.setattr(serving, "TRUE_QUERIES", 200)
    monkeypatch.setattr(serving, "LOAD_QUERIES", 500)
    monkeypatch.setattr(sys, "argv", ["serving", *options, *folders, *systems])
    serving.main()
    result = json.loads((tmp_path / "serving.json").read_text())
    rows = {row["system"]: row for row in result["rows"]}
    assert set(rows) == {
        "gateway HNSW32,SQ8",
        "node HNSW32,SQ8",
        "node HNSW32,SQ8 BatchSearch of 64",
        "faiss HNSW32,Flat",
        "faiss HNSW32,SQ8",
    }
    assert set(result["skipped"]) == {"qdrant"}
    for row in rows.values():
        assert 0.9 < row["recall"] <= 1
        assert row["memory"]["pss_bytes"] > 2_000 * 1_024
        assert all(cell["per_s"] > 0 and cell["p50_ms"] <= cell["p99_ms"] for cell in row["cells"])
    assert [cell["inflight"] for cell in rows["node HNSW32,SQ8"]["cells"]] == [1, 16, 64]
    assert [cell["inflight"] for cell in rows["node HNSW32,SQ8 BatchSearch of 64"]["cells"]] == [64]
    table = (tmp_path / "serving.md").read_text()
    assert table in capsys.readouterr().out
    assert table.count("\n| ") == 2 + len(rows)
    assert "* qdrant: PyPI has no package of its server" in table


def test_a_system_whose_packages_cannot_be_installed_is_skipped_with_the_reason(tmp_path: Path) -> None:
    site = Site(
        data=tmp_path,
        folder=tmp_path,
        environments=tmp_path / "environments",
        environment=Environment(name="missing", packages=(str(tmp_path / "no-such-file.whl"),)),
        processes=Supervisor(tmp_path, {}),
        pin=(),
    )
    with pytest.raises(Skipped, match=r"no-such-file\.whl cannot be installed"):
        site.install()
    assert list(site.environments.iterdir()) == []
