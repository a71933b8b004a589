"""Runs tasks on this machine, on threads: their work is in libraries that release the interpreter lock. Reads /proc."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterable
from pathlib import Path

from lookalike.runtime.engine import Item, Result, TaskNeeds
from lookalike.runtime.ordered_map import ordered_map

_CGROUP = Path("/sys/fs/cgroup")


class LocalEngine:
    """An `Engine` of at most so many threads; 0: one for each core."""

    def __init__(self, *, threads: int = 0, memory_bytes: int | None = None) -> None:
        """memory_bytes: for all tasks at once; None: what is available when tasks begin."""
        self._threads = threads or len(os.sched_getaffinity(0))
        self._memory_bytes = memory_bytes

    def threads_per_task(self, tasks: int) -> int:
        return max(1, self._threads // max(1, tasks))

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], needs: TaskNeeds
    ) -> Generator[Result, None, None]:
        workers = max(1, self._threads // needs.threads)
        if needs.memory_bytes:
            available = available_memory_bytes() if self._memory_bytes is None else self._memory_bytes
            workers = max(1, min(workers, available // needs.memory_bytes))
        for _, result in ordered_map(task, items, workers=workers, ahead=2 * workers):
            yield result


def available_memory_bytes(proc: Path = Path("/proc"), cgroup: Path = _CGROUP) -> int:
    """Memory that this process may still take: of the machine, or of its control group (a container's) if that is less.

    Pages of files count as available: the kernel gives them up.
    """
    meminfo = _fields(proc / "meminfo")
    available = meminfo["MemAvailable:"] * 1024
    try:
        limit = int((cgroup / "memory.max").read_text())  # ValueError: "max", there is no limit.
        used = int((cgroup / "memory.current").read_text()) - _fields(cgroup / "memory.stat")["inactive_file"]
    except (OSError, ValueError, KeyError):
        return available
    return min(available, max(0, limit - used))


def _fields(path: Path) -> dict[str, int]:
    """The first number of each line, by the word before it."""
    rows = (line.split() for line in path.read_text().splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}
