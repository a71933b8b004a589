"""Lower the priority of a thread. No I/O."""

from __future__ import annotations

import os
import threading

_LOWER = 10  # Added to the nice value of threads that load, compact, or run costly searches: ordinary ones go first.


def lower_thread_priority() -> None:
    """Lower the priority of the calling thread.

    On Linux every thread has a nice value of its own, which the threads it starts inherit.
    """
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + _LOWER)
