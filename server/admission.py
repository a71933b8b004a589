"""Admission: a bound on the calls being answered, reached before anything is done for one more. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.errors import Overloaded
from server import metrics


class Admission:
    def __init__(self, max_inflight: int) -> None:
        self._max_inflight = max_inflight
        self._inflight = 0

    @contextmanager
    def permit(self) -> Iterator[None]:
        """Hold one of the permits. Raises Overloaded at once when there is none."""
        if self._inflight >= self._max_inflight:
            metrics.REFUSED.inc()
            raise Overloaded(f"{self._inflight} calls are being answered, {self._max_inflight} may be")
        self._inflight += 1
        metrics.INFLIGHT.set(self._inflight)
        try:
            yield
        finally:
            self._inflight -= 1
            metrics.INFLIGHT.set(self._inflight)
