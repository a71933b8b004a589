"""Run work on threads beside an event loop, and lower the priority of threads. No I/O."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from index.backends.faiss_support import use_threads

Result = TypeVar("Result")

_LOWER = 10  # Added to the nice value of threads that load, compact, or run costly searches: ordinary ones go first.


async def run_in_thread(executor: Executor, work: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(executor, work)


def lower_thread_priority() -> None:
    """Lower the priority of the calling thread, and let faiss start no further threads for it.

    On Linux every thread has a nice value of its own, which the threads it starts inherit.
    """
    use_threads(1)
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LOWER)
