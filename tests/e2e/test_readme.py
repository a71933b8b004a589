"""README's commands, as printed, against a running demo and an index of one's own.

Two things differ: the demo has 480 products instead of 2,400; where port 50051 is printed, and where a command does
not state an address, the ports are those that were free.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic, sleep

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lookalike.client import Client
from lookalike.local import probes
from tests.conftest import REPOSITORY
from tests.e2e.demos import DemoDirectories, running, sample_catalogue

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]

README = (REPOSITORY / "README.md").read_text(encoding="utf-8")
TIMEOUT_S = 240


def blocks(heading: str, language: str) -> list[str]:
    """The code blocks of one language below one heading of README."""
    section = README.partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(rf"^```{language}\n(.*?)^```", section, flags=re.MULTILINE | re.DOTALL)


def commands(heading: str) -> list[str]:
    """The lines of the shell blocks below one heading, without comments."""
    lines = [line for block in blocks(heading, "sh") for line in block.splitlines()]
    return [command for line in lines if (command := line.partition("  #")[0].strip())]


ASKING = [command for command in commands("Try it") if command.split()[0] in ("lookalike", "locust")]
OWN = commands("Use your own vectors")


@dataclass(frozen=True)
class Shell:
    """Where README's commands are run: a folder that looks like the clone's root to them."""

    folder: Path
    address: str
    metrics: str

    @property
    def environ(self) -> dict[str, str]:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"  # noqa: TID251  # passed on to a subprocess
        here = {"LOOKALIKE_ADDRESS": self.address, "LOOKALIKE_METRICS": self.metrics, "COLUMNS": "150"}
        return {**os.environ, **here, "PATH": path, "PYTHONPATH": str(REPOSITORY)}  # noqa: TID251  # the same

    def run(self, command: str) -> subprocess.CompletedProcess[str]:
        words = shlex.split(command.replace("127.0.0.1:50051", self.address))
        return subprocess.run(
            words, cwd=self.folder, env=self.environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )


@pytest.fixture(scope="module")
def shell(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    """A running demo of 480 products: enough to learn a product space from, and to classify."""
    folder = tmp_path_factory.mktemp("readme")
    catalogue = sample_catalogue(folder / ".demo" / "catalogue", 480)
    demo = DemoDirectories(catalogue=catalogue, state=folder / "state")
    demo.give_models(models)
    (folder / "loadtest").symlink_to(REPOSITORY / "loadtest")
    (folder / "protos").symlink_to(REPOSITORY / "protos")
    (port,) = probes.free_ports(1)
    with running(demo, "--port", str(port), until="Ctrl-C stops everything") as (_, printed):
        (metrics,) = re.findall(r"http://\S+/metrics", printed)
        yield Shell(folder, f"127.0.0.1:{port}", metrics)
    assert demo.all_ended()


def test_readme_prints_the_commands_that_are_tested() -> None:
    assert "make demo" in commands("Try it")
    assert {command.split()[1] for command in ASKING if command.startswith("lookalike")} >= {
        "search",
        "duplicates",
        "classify",
        "load",
    }
    assert any(command.startswith("locust") for command in ASKING)
    assert len(OWN) >= 6


@pytest.mark.parametrize("command", ASKING)
def test_a_command_that_asks_the_demo_is_answered(shell: Shell, command: str) -> None:
    ended = shell.run(command)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    if command.startswith("locust"):
        assert re.search(r"Aggregated +[1-9]\d* +0\(0\.00%\)", ended.stdout + ended.stderr), ended.stderr
    elif "--json" in command:
        assert json.loads(ended.stdout)["hits"]
    elif " load" in command:
        assert "MISSED" not in ended.stdout
    else:
        assert "degraded: coverage" not in ended.stdout
        assert ended.stdout.strip()


def test_the_python_example_prints_hits_and_where_they_come_from(shell: Shell) -> None:
    (example,) = blocks("Call it", "python")
    ended = shell.run(f"python -c {shlex.quote(example)}")
    assert ended.returncode == 0, ended.stderr
    *hits, provenance = ended.stdout.splitlines()
    assert len(hits) == 5
    assert provenance.endswith(" 1.0")


def test_the_javascript_example_prints_hits(shell: Shell) -> None:
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed (Node.js brings it)")
    (example,) = blocks("Call it", "js")
    (packages,) = re.findall(r"`(npm install [^`]+)`", README)
    installed = shell.run(f"{packages} --silent --no-audit --no-fund")
    assert installed.returncode == 0, installed.stderr
    ended = shell.run(f"node -e {shlex.quote(example.replace('127.0.0.1:50051', shell.address))}")
    assert ended.returncode == 0, ended.stderr
    assert len(ended.stdout.splitlines()) == 5


def test_the_grpcurl_example_is_answered(shell: Shell) -> None:
    if shutil.which("grpcurl") is None:
        pytest.skip("grpcurl is not installed")
    (command,) = [line for block in blocks("Call it", "sh") for line in block.splitlines() if "grpcurl" in line]
    ended = shell.run(command)
    assert ended.returncode == 0, ended.stderr
    assert len(json.loads(ended.stdout)["hits"]) == 5


@contextmanager
def serving(shell: Shell, command: str) -> Iterator[None]:
    """`lookalike serve local …` until it serves at the shell's address."""
    words = [*shlex.split(command), "--port", shell.address.rpartition(":")[2]]
    log = (shell.folder / "serve.log").open("w+")
    process = subprocess.Popen(words, cwd=shell.folder, env=shell.environ, stdout=log, stderr=log)
    try:
        give_up_s = monotonic() + TIMEOUT_S
        while not probes.is_serving(shell.address):
            assert process.poll() is None, (shell.folder / "serve.log").read_text()
            assert monotonic() < give_up_s
            sleep(0.1)
        yield
    finally:
        process.send_signal(signal.SIGINT)
        assert process.wait(TIMEOUT_S) == 0
        log.close()


def test_your_own_vectors_are_built_served_searched_and_changed(tmp_path: Path) -> None:
    (port,) = probes.free_ports(1)
    shell = Shell(tmp_path, f"127.0.0.1:{port}", "")
    vectors = np.random.default_rng(0).normal(size=(200, 24)).astype(np.float32)
    np.save(tmp_path / "base.npy", vectors)
    np.save(tmp_path / "query.npy", vectors[7])
    np.save(tmp_path / "photo.npy", vectors[8])
    ids = [f"p-{number}" for number in range(200)]
    (tmp_path / "ids.txt").write_text("\n".join(ids) + "\n")
    table = pa.table({"id": ids, "title": [f"product {number}" for number in range(200)], "price": [100.0] * 200})
    pq.write_table(table, tmp_path / "attrs.parquet")

    build, serve, search, serve_live, upsert, patch, remove = [
        command for command in OWN if not command.startswith("lookalike versions")
    ]
    ended = shell.run(build)
    assert ended.returncode == 0, ended.stderr
    with serving(shell, serve):
        ended = shell.run(search)
        assert ended.returncode == 0, ended.stderr
        assert "p-7 " in ended.stdout
    with serving(shell, serve_live), Client(shell.address) as client:
        assert shell.run(upsert).returncode == 0
        assert client.get("p-17").title == "red sneakers"
        assert shell.run(patch).returncode == 0
        assert (client.get("p-17").price, [*client.vectors("p-17")]) == (4500, ["image"])
        assert shell.run(remove).returncode == 0
        assert client.exists(["p-17"]) == [False]
