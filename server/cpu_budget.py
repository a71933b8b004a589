"""A share of one core's time, for work that can wait: a token bucket over what the work has cost. Pure."""

from __future__ import annotations

from collections.abc import Callable

BURST_S = 60.0  # What was not spent for longer than this is lost: no burst is longer than its share of a minute.


class CpuBudget:
    """Work may begin while nothing is owed, and is paid for once its cost is known.

    share: of one core. clock: returns monotonic seconds.
    """

    def __init__(self, share: float, clock: Callable[[], float]) -> None:
        self._share = share
        self._clock = clock
        self._balance_s = 0.0
        self._at_s = clock()

    def wait_s(self) -> float:
        """The time until work may begin; 0: it may now."""
        self._refill()
        return max(0.0, -self._balance_s / self._share)

    def spend(self, cpu_s: float) -> None:
        self._refill()
        self._balance_s -= cpu_s

    def _refill(self) -> None:
        now_s = self._clock()
        self._balance_s = min(self._balance_s + (now_s - self._at_s) * self._share, BURST_S * self._share)
        self._at_s = now_s
