"""Limit the time that threads work while others are busy, by pauses between the parts of their work. Reads the clock.

A low priority alone would do less: a thread that is preempted while it holds the interpreter's lock holds up all
others. With equal priority, every ordinary search would wait for a slice of time to be scheduled beside it.
"""

from __future__ import annotations

import time
from collections.abc import Callable


class Pacer:
    """Lets threads that call it work for a share of the time while `is_busy`, and all of it otherwise. Thread-safe.

    Shares of time, and not of CPU: where others keep the cores busy, a part of the work takes longer, and so does the
    pause after it.
    """

    def __init__(
        self, share: float, is_busy: Callable[[], bool], *, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        self._pause_per_s = 1 / share - 1
        self._is_busy = is_busy
        self._sleep = sleep

    def pause(self, worked_s: float, idle_s: float = 0) -> None:
        """Call it after each part of long work, or `idle_s` after that."""
        pause_s = worked_s * self._pause_per_s - idle_s
        if pause_s > 0 and self._is_busy():
            self._sleep(pause_s)
