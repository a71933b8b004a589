"""Start threads that a process cannot go on without, and lower the priority of threads. Signals this process."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Callable

log = logging.getLogger(__name__)

_LOWER = 10  # Added to the nice value of threads that hash, compact, or run costly searches: ordinary ones go first.


def lower_thread_priority() -> None:
    """Lower the priority of the calling thread. Only for work that is mostly outside the interpreter's lock.

    Where the cores are busy, one that runs Python is halted while it holds the lock, and halts the whole process: so a
    shard that loaded a version was late by 30 to 180 ms again and again, for 4 to 14 s, and at the common priority by
    20 to 80 ms for 0.4 to 2 s. On Linux every thread has a nice value of its own, which the threads it starts inherit.
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
