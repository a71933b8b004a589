"""Start threads that a process cannot go on without, and lower the priority of threads. Signals this process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_LOWER = 10  # Added to the nice value of threads that load, compact, or run costly searches: ordinary ones go first.


def lower_thread_priority() -> None:
    """Lower the priority of the calling thread.

    On Linux every thread has a nice value of its own, which the threads it starts inherit.
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LOWER)


def start_thread(work: Callable[[], object], name: str) -> threading.Thread:
    """Run `work` on a daemon thread. If it fails, the process must not go on without it: SIGTERM.

    As `lifecycle.background_task` for a task.
    """
    thread = threading.Thread(target=_run_or_stop, args=(work, name), name=name, daemon=True)
    thread.start()
    return thread


def _run_or_stop(work: Callable[[], object], name: str) -> None:
    try:
        work()
    except BaseException:
        log.critical("the thread %s failed; stopping", name, exc_info=True)
        os.kill(os.getpid(), signal.SIGTERM)
