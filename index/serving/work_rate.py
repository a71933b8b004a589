"""How fast work is done, as measured, and whether more of it can be done before a deadline. Reads the clock."""

from __future__ import annotations

import math
import time

from lookalike.errors import Overloaded
from lookalike.runtime.deadline import Deadline

_NEWEST_SHARE = 0.2  # Of the newest measurement in the mean: about the last ten count.


class WorkRate:
    """A moving mean of the seconds per unit of work. For one writer; any thread may read."""

    def __init__(self) -> None:
        self._unit_s = 0.0  # 0: not measured yet.

    def observe(self, work: float, seconds: float) -> None:
        unit_s = seconds / work
        self._unit_s = self._unit_s + _NEWEST_SHARE * (unit_s - self._unit_s) if self._unit_s else unit_s

    def seconds(self, work: float) -> float:
        """The time that work is expected to take; 0 before the first measurement."""
        return work * self._unit_s


def require_time(deadline: Deadline, *, waiting_s: float, own_s: float, what: str) -> None:
    """Raise Overloaded at once for what is not expected to be done before the deadline.

    waiting_s: expected until the work that is ahead is done; own_s: expected for this work alone.
    """
    left_s = deadline.at_s - time.monotonic()
    if waiting_s + own_s > left_s:
        raise Overloaded(
            f"{what} takes about {own_s:.2g} s here, after {waiting_s:.2g} s of work that is ahead of it, and its "
            f"deadline is in {left_s:.2g} s",
            retry_after_s=math.ceil(10 * max(waiting_s, own_s)) / 10,
        )
