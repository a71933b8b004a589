"""A bound on the streams that are open at once. For use on one event loop."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from lookalike.errors import Overloaded
from server import metrics


class OpenStreams:
    """Counts open streams of all kinds, at most `limit`."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open = 0

    @contextmanager
    def one_more(self) -> Iterator[None]:
        """Count one while the context is open. Raises Overloaded."""
        if self._open >= self._limit:
            raise Overloaded(f"{self._open} streams are open, the limit is {self._limit}")
        self._open += 1
        metrics.STREAMS.set(self._open)
        try:
            yield
        finally:
            self._open -= 1
            metrics.STREAMS.set(self._open)
