"""Logs what callers are not told of the failures of their calls, within a bound. Writes logs."""

from __future__ import annotations

import logging
import threading
from time import monotonic

from lookalike.errors import LookalikeError, public_message
from lookalike.runtime.call import current
from lookalike.status import to_request_error
from lookalike.v1.types_pb2 import RequestError

log = logging.getLogger(__name__)

_LINES_PER_S = 20  # A dependency that is down fails every call, with the same words.


class _Budget:
    """How many lines may be written yet in this second, and how many were not."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._second = 0
        self._lines = self._omitted = 0

    def take(self) -> int | None:
        """How many lines were omitted before this one; None: this one is omitted, too."""
        with self._lock:
            if (second := int(monotonic())) != self._second:
                self._second, self._lines = second, 0
            if self._lines >= _LINES_PER_S:
                self._omitted += 1
                return None
            self._lines += 1
            omitted, self._omitted = self._omitted, 0
            return omitted


_budget = _Budget()


def told(error: LookalikeError) -> str:
    """What a caller is told of an error. Where that is not the whole message, the log has that, by the request's id."""
    if error.public and (omitted := _budget.take()) is not None:
        log.warning("%s failed: %s", current().method or "a call", error)
        if omitted:
            log.warning("%d more failures of calls were not logged, of more than %d in a second", omitted, _LINES_PER_S)
    return public_message(error)


def told_as_message(error: LookalikeError) -> RequestError:
    """As `told`, of one item of a batch or stream."""
    told(error)
    return to_request_error(error)
