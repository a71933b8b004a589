"""A point in time until which an answer is of use. Made once per request and handed down; no I/O but the clock."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from lookalike.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    at_s: float  # On the monotonic clock; infinity: never.

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        return cls(math.inf if seconds is None else time.monotonic() + seconds)

    def or_after(self, seconds: float) -> Deadline:
        """This deadline; where it is never, one `seconds` from now."""
        return Deadline.after(seconds) if self.at_s == math.inf else self

    def remaining_s(self) -> float:
        """Seconds left. Raises DeadlineExceeded when there are none: nothing is started for an answer nobody awaits."""
        left_s = self.at_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline has passed")
        return left_s

    def timeout_s(self) -> float | None:
        """Seconds left, as gRPC and asyncio want them: None for never. Raises DeadlineExceeded."""
        left_s = self.remaining_s()
        return None if left_s == math.inf else left_s

    def capped(self, at_most_s: float) -> float:
        """Seconds left, `at_most_s` at most: what to give one call on the way. Raises DeadlineExceeded."""
        return min(self.remaining_s(), at_most_s)
