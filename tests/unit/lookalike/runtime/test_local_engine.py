"""Tasks on this machine: in order, as many at once as cores and memory allow, and one in any case."""

from __future__ import annotations

import argparse
import threading
from pathlib import Path

import pytest

from lookalike.errors import BadSettings
from lookalike.runtime import ray_engine
from lookalike.runtime.engine import TaskNeeds
from lookalike.runtime.engine_options import add_engine_options, open_engine
from lookalike.runtime.local_engine import LocalEngine, available_memory_bytes


class Gate:
    """A task that waits until `count` of it run at once; holds how many did at most."""

    def __init__(self, count: int) -> None:
        self.most = self.running = 0
        self._lock = threading.Lock()
        self._barrier = threading.Barrier(count)

    def __call__(self, number: int) -> int:
        with self._lock:
            self.running += 1
            self.most = max(self.most, self.running)
        self._barrier.wait(timeout=60)
        with self._lock:
            self.running -= 1
        return -number


@pytest.mark.parametrize(
    ("needs", "at_once"),
    [
        (TaskNeeds(), 4),
        (TaskNeeds(threads=2), 2),
        (TaskNeeds(threads=9), 1),
        (TaskNeeds(memory_bytes=30), 3),
        (TaskNeeds(memory_bytes=1000), 1),
    ],
)
def test_as_many_tasks_run_at_once_as_cores_and_memory_allow(needs: TaskNeeds, at_once: int) -> None:
    task = Gate(at_once)
    results = LocalEngine(threads=4, memory_bytes=100).map(task, range(12), needs)
    assert list(results) == [-number for number in range(12)]
    assert task.most == at_once


def test_tasks_share_the_cores() -> None:
    engine = LocalEngine(threads=8)
    assert [engine.threads_per_task(tasks) for tasks in (0, 1, 2, 3, 8, 100)] == [8, 8, 4, 2, 1, 1]


def test_the_error_of_a_task_is_raised_and_those_not_begun_are_dropped() -> None:
    begun: list[int] = []

    def fail(number: int) -> int:
        begun.append(number)
        if number == 1:
            raise BadSettings("one")
        return number

    with pytest.raises(BadSettings, match="one"):
        list(LocalEngine(threads=1).map(fail, range(1000), TaskNeeds()))
    assert len(begun) < 10


def write_limits(folder: Path, *, limit: str) -> tuple[Path, Path]:
    (folder / "meminfo").write_text("MemTotal:  9000 kB\nMemAvailable:   1000 kB\nHugePages_Total:       0\n")
    (folder / "memory.max").write_text(f"{limit}\n")
    (folder / "memory.current").write_text("300000\n")
    (folder / "memory.stat").write_text("anon 100000\ninactive_file 50000\n")
    return folder, folder


@pytest.mark.parametrize(("limit", "available"), [("max", 1_024_000), ("400000", 150_000), ("200000", 0)])
def test_the_memory_is_that_of_the_container_if_that_is_less(tmp_path: Path, limit: str, available: int) -> None:
    proc, cgroup = write_limits(tmp_path, limit=limit)
    assert available_memory_bytes(proc, cgroup) == available


def parse(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_engine_options(parser)
    return parser.parse_args(arguments)


def test_this_machine_is_the_default_engine() -> None:
    with open_engine(parse(), threads=3) as engine:
        assert isinstance(engine, LocalEngine)
        assert engine.threads_per_task(1) == 3


def test_an_address_without_the_engine_is_refused() -> None:
    with pytest.raises(BadSettings, match="--ray-address needs --engine ray"):
        open_engine(parse("--ray-address=auto"))


def test_ray_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine, "find_spec", lambda name: None)
    with pytest.raises(BadSettings, match="dependency group `ray`"):
        open_engine(parse("--engine=ray")).__enter__()


@pytest.mark.parametrize("address", ["head", "ray://head", "ray://head:port"])
def test_a_malformed_address_is_refused(address: str) -> None:
    pytest.importorskip("ray")
    with pytest.raises(BadSettings, match=r"expected auto, HOST:PORT or ray://HOST:PORT"):
        open_engine(parse("--engine=ray", f"--ray-address={address}")).__enter__()
