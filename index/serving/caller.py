"""The caller of a search, as its threads see it: how long it waits, and what it cost. Reads the clock."""

from __future__ import annotations

from lookalike.errors import DeadlineExceeded
from lookalike.runtime.deadline import Deadline


class Caller:
    """Waits until a deadline, unless it gives up before. Thread-safe."""

    def __init__(self, deadline: Deadline) -> None:
        self.deadline = deadline
        self.gave_up = False
        self.cpu_s = 0.0  # Of the passes over the vectors that its exact searches shared: their share.

    def check(self) -> None:
        """Raises DeadlineExceeded if nobody waits for the answer any more."""
        if self.gave_up:
            raise DeadlineExceeded("the caller gave up")
        self.deadline.remaining_s()
