"""The load test against a real system on this machine: an index of vectors, its shards, a gateway."""

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

LENIENT = """
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
IMPOSSIBLE = "error_ratio = 0.0\nmin_requests_per_s = 1_000_000\n"


@dataclass(frozen=True)
class Local:
    words: list[str]  # Where the gateway and its metrics are.
    vectors: Path


def command(*words: str | Path) -> list[str]:
    return [sys.executable, "-m", "lookalike", *map(str, words)]


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Local]:
    folder = tmp_path_factory.mktemp("load")
    vectors = folder / "vectors.npy"
    np.save(vectors, np.random.default_rng(0).normal(size=(600, 32)).astype(np.float32))
    built = run("index", "build", "--vectors", vectors, "--space", "image", "--shards", "2", folder / "index")
    assert built.returncode == 0, built.stderr
    port, metrics_port = probes.free_ports(2)
    log = (folder / "log").open("wb")
    words = ("serve", "local", folder / "index", "--port", str(port), "--metrics-port", str(metrics_port))
    process = subprocess.Popen(command(*words), cwd=ROOT, stdout=log, stderr=log)
    try:
        give_up_s = monotonic() + 120
        while not probes.is_serving(f"127.0.0.1:{port}"):
            assert process.poll() is None, (folder / "log").read_text()
            assert monotonic() < give_up_s, (folder / "log").read_text()
            sleep(0.1)
        metrics = f"http://127.0.0.1:{metrics_port}/metrics"
        yield Local(["--address", f"127.0.0.1:{port}", "--metrics", metrics], vectors)
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
        log.close()


def test_objectives_that_are_met_end_in_success(local: Local, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text(LENIENT)
    mix = ["--mix", "product=2,vector=1", "--vectors", f"image={local.vectors}"]
    bounds = ["--seconds", "10", "--users", "4", "--rate", "40", "--slo", str(tmp_path / "slo.toml")]
    ended = run("load", *local.words, *mix, *bounds, "--json")
    assert ended.returncode == 0, ended.stdout + ended.stderr
    told = json.loads(ended.stdout)
    assert told["met"]
    assert set(told["outcomes"]) == {"OK"}
    assert set(told["client"]) == {"product", "vector"}
    assert {row["space"] for row in told["server"]} == {"image"}
    assert {"cache", "search"} <= set(told["stages"])
    # Every call the users made is one that the gateway counted, and no call of another's.
    assert sum(each["calls"] for each in told["client"].values()) == told["outcomes"]["OK"]


def test_objectives_that_are_missed_end_in_failure(local: Local, tmp_path: Path) -> None:
    (tmp_path / "slo.toml").write_text(IMPOSSIBLE)
    ended = run("load", *local.words, "--seconds", "2", "--slo", tmp_path / "slo.toml")
    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "MISSED" in ended.stdout
    assert "text queries were left out" in ended.stdout


def test_a_kind_that_was_asked_for_and_cannot_be_answered_is_an_error(local: Local) -> None:
    ended = run("load", *local.words, "--seconds", "2", "--mix", "text=1")
    assert ended.returncode == 1
    assert "text" in ended.stderr


def test_words_that_are_not_understood_end_in_a_usage_error(local: Local) -> None:
    assert run("load", *local.words, "--mix", "everything=1").returncode == 2
    assert run("load", *local.words, "--users", "100000").returncode == 2
