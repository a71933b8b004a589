"""The log of slow work: an entry with where the time went, at most ten a second. Logs; reads the clock."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any

from google.protobuf.message import Message

from lookalike.runtime.telemetry import FIELDS

log = logging.getLogger(__name__)

MAX_PER_S = 10


class SlowLog:
    """Entries for what takes `threshold_s` or longer. Thread-safe."""

    def __init__(self, threshold_s: float, clock: Callable[[], float] = monotonic) -> None:
        self.threshold_s = threshold_s
        self._clock = clock
        self._lock = threading.Lock()
        self._second, self._written, self._left_out = 0, 0, 0

    def write(self, message: str, fields: Mapping[str, Any]) -> None:
        """Log it, or count it in a later entry as `left_out`."""
        with self._lock:
            if (second := int(self._clock())) != self._second:
                self._second, self._written = second, 0
            if self._written >= MAX_PER_S:
                self._left_out += 1
                return
            self._written += 1
            left_out, self._left_out = self._left_out, 0
        log.warning(message, extra={FIELDS: {**fields, "left_out": left_out}})


def slow_log(threshold_s: float) -> SlowLog | None:
    """None for 0: nothing is logged."""
    return SlowLog(threshold_s) if threshold_s else None


def shape_of(message: Message) -> dict[str, Any]:
    """Which fields a message has, and how many values each of them: no values. Messages in it as messages."""
    shape: dict[str, Any] = {}
    for field, value in message.ListFields():
        if field.message_type is not None:
            messages = value if field.is_repeated else [value]
            shape[field.name] = [shape_of(each) for each in messages]
        else:
            shape[field.name] = len(value) if field.is_repeated else 1
    return shape
