"""`lookalike load` against a real local system: an index of vectors, its shards, a gateway."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pytest

from lookalike.local import probes
from lookalike.local.process_specs import ROOT

pytestmark = pytest.mark.slow

LENIENT_OBJECTIVES = """
error_ratio = 0.0
min_requests_per_s = 1

[[latency]]
method = "Search"
space = "image"
cached = false
p50_s = 10.0

[[latency]]
method = "Search"
p99_s = 10.0
"""
IMPOSSIBLE_OBJECTIVES = "error_ratio = 0.0\nmin_requests_per_s = 1_000_000\n"


@dataclass(frozen=True)
class LocalSystem:
    address_options: list[str]  # Of the gateway and its metrics.
    vectors: Path


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "lookalike", *map(str, words)]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalSystem]:
    folder = tmp_path_factory.mktemp("load")
    vectors = folder / "vectors.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32))
    result = run("index", "build", "--vectors", vectors, "--space", "image", "--shards", "2", folder / "index")
    assert result.returncode == 0, result.stderr
    port, metrics_port = probes.free_ports(2)
    log = (folder / "log").open("wb")
    words = ("serve", "local", folder / "index", "--port", str(port), "--metrics-port", str(metrics_port))
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=log, stderr=log)
    try:
        deadline_s = monotonic() + 120
        while not probes.is_serving(f"127.0.0.1:{port}"):
            assert process.poll() is None, (folder / "log").read_text()
            assert monotonic() < deadline_s, (folder / "log").read_text()
            sleep(0.1)
        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        yield LocalSystem(["--address", f"127.0.0.1:{port}", "--metrics", metrics], vectors)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def test_met_objectives_exit_with_status_0(local: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text(LENIENT_OBJECTIVES)
    mix = ["--mix", "product=2,vector=1", "--vectors", f"image={local.vectors}"]
    bounds = ["--seconds", "5", "--users", "4", "--rate", "40", "--slo", str(tmp_path / "slo.toml")]
    process = run("load", *local.address_options, *mix, *bounds, "--json")
    assert process.returncode == 0, process.stdout + process.stderr
    report = json.loads(process.stdout)
    assert report["met"]
    assert set(report["outcomes"]) == {"OK"}
    assert set(report["client"]) == {"product", "vector"}
    assert {row["space"] for row in report["server"]} == {"image"}
    assert {"cache", "search"} <= set(report["stages"])
    # The gateway counted exactly the calls that the users made.
    assert sum(kind["calls"] for kind in report["client"].values()) == report["outcomes"]["OK"]


def test_missed_objectives_exit_with_status_1(local: LocalSystem, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text(IMPOSSIBLE_OBJECTIVES)
    process = run("load", *local.address_options, "--seconds", "2", "--slo", tmp_path / "slo.toml")
    assert process.returncode == 1, process.stdout + process.stderr
    assert "MISSED" in process.stdout
    assert "text queries were left out" in process.stdout


def test_a_requested_kind_of_query_that_the_gateway_cannot_answer_is_an_error(local: LocalSystem) -> None:
    process = run("load", *local.address_options, "--seconds", "2", "--mix", "text=1")
    assert process.returncode == 1
    assert "text" in process.stderr


def test_invalid_options_exit_with_status_2(local: LocalSystem) -> None:
    assert run("load", *local.address_options, "--mix", "everything=1").returncode == 2
    assert run("load", *local.address_options, "--users", "100000").returncode == 2
