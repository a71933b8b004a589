"""A circuit breaker that says when it opens, why, and when it closes: in the log, once each, and as a metric."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from prometheus_client import Gauge

from lookalike.runtime.circuit_breaker import CircuitBreaker

log = logging.getLogger(__name__)

OPEN = Gauge("lookalike_circuit_open", "1: calls of this kind fail, and are not made but to try again.", ["calls"])


class ReportedBreaker:
    """The breaker of one kind of calls.

    calls:       names them in the metric: "redis set".
    consequence: what it means that they are not made, for the log.
    """

    def __init__(
        self,
        calls: str,
        consequence: str,
        *,
        max_failures: int,
        pause_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._calls = calls
        self._consequence = consequence
        self._breaker = CircuitBreaker(max_failures=max_failures, pause_s=pause_s)
        self._clock = clock
        OPEN.labels(calls).set(0)

    def allows(self) -> bool:
        """Whether `begin` would let a call pass."""
        return self._breaker.allows(self._clock())

    def begin(self) -> bool:
        """Whether a call may be made now; if so, it is made, and its outcome recorded."""
        return self._breaker.begin(self._clock())

    def retry_after_s(self) -> float:
        """How long until a call may pass."""
        return self._breaker.retry_after_s(self._clock())

    def record_success(self) -> None:
        if self._breaker.record_success():
            OPEN.labels(self._calls).set(0)
            log.info("%s: answered again", self._calls)

    def record_failure(self, error: BaseException) -> None:
        self._note(self._breaker.record_failure(self._clock()), error)

    def trip(self, error: BaseException) -> None:
        """Open it at once, whatever the number of failures."""
        self._note(self._breaker.trip(self._clock()), error)

    def _note(self, opened: bool, error: BaseException) -> None:
        if opened:
            OPEN.labels(self._calls).set(1)
            log.warning("%s: %s: %s", self._calls, self._consequence, str(error) or type(error).__name__)
