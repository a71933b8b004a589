"""Limit the CPU time of threads while others are busy, by pauses between the parts of their work. Reads clocks.

A low priority would do less: a thread that is preempted while it holds the interpreter's lock holds up all others, and
the lower its priority, the longer.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable


class Pacer:
    """Lets each thread that calls it use a share of a core while `is_busy`, and a whole one otherwise. Thread-safe."""

    def __init__(
        self,
        share: float,
        is_busy: Callable[[], bool],
        *,
        cpu_s: Callable[[], float] = time.thread_time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """cpu_s: the CPU time of the calling thread."""
        self._pause_per_s = 1 / share - 1
        self._is_busy = is_busy
        self._cpu_s = cpu_s
        self._sleep = sleep
        self._paused_at = threading.local()  # `cpu_s` at the last pause of each thread.

    def pause(self) -> None:
        """Call it between the parts of long work."""
        now_s = self._cpu_s()
        used_s = now_s - getattr(self._paused_at, "cpu_s", now_s)
        if used_s and self._is_busy():
            self._sleep(used_s * self._pause_per_s)
        self._paused_at.cpu_s = self._cpu_s()
