"""The deadline of a request: created once from its timeout and passed down. Reads the clock; no other I/O."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass

from lookalike.errors import DeadlineExceeded


@dataclass(frozen=True, slots=True)
class Deadline:
    """A point in time after which nobody waits for the answer."""

    at_s: float  # On the monotonic clock; infinity: no deadline.

    @classmethod
    def after(cls, seconds: float | None) -> Deadline:
        """The deadline that is `seconds` from now; None: no deadline."""
        return cls(math.inf if seconds is None else time.monotonic() + seconds)

    def or_after(self, seconds: float) -> Deadline:
        """This deadline; if there is none, the one that is `seconds` from now."""
        return Deadline.after(seconds) if self.at_s == math.inf else self

    def remaining_s(self) -> float:
        """Seconds left. Raises DeadlineExceeded if none are: work for an answer that nobody awaits must not start."""
        left_s = self.at_s - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded("the deadline has passed")
        return left_s

    def timeout_s(self) -> float | None:
        """Seconds left in the form of a gRPC or asyncio timeout: None for no deadline. Raises DeadlineExceeded."""
        left_s = self.remaining_s()
        return None if left_s == math.inf else left_s

    def capped(self, at_most_s: float) -> float:
        """Seconds left, but at most `at_most_s`: the timeout of one call to a peer. Raises DeadlineExceeded."""
        return min(self.remaining_s(), at_most_s)
