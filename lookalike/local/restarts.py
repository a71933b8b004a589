"""When a process that ended is started again. Pure: clocks are the caller's."""

from __future__ import annotations

FIRST_WAIT_S, MAX_WAIT_S = 1.0, 30.0
STABLE_S = 60.0  # A process that ran for so long had no lasting fault: the next wait is the first again.


class RestartBackoff:
    """The wait before each start, which doubles while the process ends soon after it was started."""

    def __init__(self) -> None:
        self._wait_s = FIRST_WAIT_S

    def next_wait_s(self, ran_s: float) -> float:
        """The wait before the next start of a process that ended after it ran for so long."""
        if ran_s >= STABLE_S:
            self._wait_s = FIRST_WAIT_S
        wait_s, self._wait_s = self._wait_s, min(2 * self._wait_s, MAX_WAIT_S)
        return wait_s
