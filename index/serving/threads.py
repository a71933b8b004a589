"""Run work on threads beside an event loop, and lower the priority of threads. No I/O."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from index.backends.faiss_support import use_threads
from lookalike.runtime import threads
from lookalike.runtime.call import carried

Result = TypeVar("Result")


async def run_in_thread(executor: Executor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(executor, carried(work))


def lower_thread_priority() -> None:
    """Lower the priority of the calling thread, and let faiss start no further threads for it."""
    use_threads(1)
    threads.lower_thread_priority()
