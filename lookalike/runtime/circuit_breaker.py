"""A circuit breaker: when to stop calling what fails, and when to try it again. Pure; the clock is the caller's."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True, kw_only=True)
class CircuitBreaker:
    """Closed, it lets all calls pass. After `max_failures` in a row it opens: none passes for `pause_s`.

    Then it is half-open: one call passes, and the outcome of that closes it or opens it again. A call that never says
    what became of it is not waited for: after `pause_s` the next one passes.
    """

    max_failures: int
    pause_s: float
    _failures: int = 0  # In a row.
    _open_until_s: float | None = None  # None: closed.

    @property
    def is_closed(self) -> bool:
        return self._open_until_s is None

    def allows(self, now_s: float) -> bool:
        """Whether `begin` would let a call pass."""
        return self._open_until_s is None or now_s >= self._open_until_s

    def begin(self, now_s: float) -> bool:
        """Whether a call may be made now; if so, it is made."""
        if not self.allows(now_s):
            return False
        if self._open_until_s is not None:
            self._open_until_s = now_s + self.pause_s
        return True

    def retry_after_s(self, now_s: float) -> float:
        """How long until a call may pass."""
        return max(0.0, (self._open_until_s or now_s) - now_s)

    def record_success(self) -> bool:
        """Record that a call was answered; returns whether that closed it."""
        closed, self._failures, self._open_until_s = self._open_until_s is not None, 0, None
        return closed

    def record_failure(self, now_s: float) -> bool:
        """Record that a call failed; returns whether that opened it, which it does not where it was open."""
        self._failures += 1
        if self.is_closed and self._failures < self.max_failures:
            return False
        return self.trip(now_s)

    def trip(self, now_s: float) -> bool:
        """Open it at once, whatever the number of failures; returns whether it was closed."""
        was_closed, self._open_until_s = self.is_closed, now_s + self.pause_s
        return was_closed

    def end_pause(self, now_s: float) -> None:
        """Let one call pass now: there is reason to think that it succeeds."""
        if self._open_until_s is not None:
            self._open_until_s = min(self._open_until_s, now_s)
