"""Where heavy tasks run: the seam between this machine and a cluster. Pure.

A task is a function of a module, its input a plain value and its result another: a task may run in another process, on
another machine, and once more if that fails. So it changes nothing but files with names of its own, and what is large
goes by files that all machines see, or as NumPy arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class TaskNeeds:
    """What a task takes of the machine that it runs on."""

    threads: int = 1
    memory_bytes: int = 0  # 0: too little to count.
    files: tuple[Path, ...] = ()  # That the machine must have as this one does: it shares their directories.


class Engine(Protocol):
    """Runs tasks: `LocalEngine` on this machine, `RayEngine` on a Ray cluster."""

    def threads_per_task(self, tasks: int) -> int:
        """How many threads each of so many tasks may use, so that together they use all cores. At least 1."""

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], needs: TaskNeeds
    ) -> Generator[Result, None, None]:
        """Yield task(item) in the order of the items, which are read no faster than the results are taken.

        As many tasks run at once as the cores and the memory allow, and at least one. Raises the error of the first
        task that fails; others that have begun may run to their end.
        """
