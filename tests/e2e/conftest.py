"""A small index, served by real processes, for tests that only query it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from time import monotonic, sleep

import numpy as np
import pytest

from lookalike.local import probes
from tests.conftest import REPOSITORY
from tests.e2e.demos import DemoDirectories, sample_catalogue

TIMEOUT_S = 120


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoDirectories:
    """Directories of a demo of 120 products, too few to learn a product space from."""
    folder = tmp_path_factory.mktemp("demo")
    return DemoDirectories(catalogue=sample_catalogue(folder / "catalogue", 120), state=folder / "state")


@pytest.fixture(scope="session")
def served_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """host:port of a gateway over two shards of 300 image vectors (16-d), products "0" to "299"."""
    folder = tmp_path_factory.mktemp("served")
    lookalike = [sys.executable, "-m", "lookalike"]
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(300, 16)).astype(np.float32))
    arguments = ["index", "build", "--vectors", str(folder / "vectors.npy"), "--space", "image", "--shards", "2"]
    subprocess.run([*lookalike, *arguments, str(folder / "index")], cwd=REPOSITORY, check=True, timeout=TIMEOUT_S)
    (port,) = probes.free_ports(1)
    address = f"127.0.0.1:{port}"
    with (folder / "log").open("wb") as log:
        arguments = ["serve", "local", str(folder / "index"), "--port", str(port)]
        process = subprocess.Popen([*lookalike, *arguments], cwd=REPOSITORY, stdout=log, stderr=log)
    try:
        deadline_s = monotonic() + TIMEOUT_S
        while not probes.is_serving(address):
            assert process.poll() is None, (folder / "log").read_text()
            assert monotonic() < deadline_s, (folder / "log").read_text()
            sleep(0.1)
        yield address
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(60)
