"""Timestamps: numbers, dates, times and texts as seconds since 1970 in UTC. Reads the clock."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime

_EXPECTED = "expected seconds since 1970 or a time like 2026-11-25 or 2026-11-25T09:30+09:00"
MAX_UNIX_S = 10**11 - 1  # In the year 5138. A larger number is most likely in milliseconds.


def unix_s(value: object) -> int:
    """Seconds since 1970 of a number of seconds, a date or a time, or of any of them as text (ISO 8601).

    Without a time zone it is UTC. Raises ValueError, which says what is wrong.
    """
    seconds = _seconds(value)
    if not 0 <= seconds <= MAX_UNIX_S:
        raise ValueError("not between 1970 and 5138; expected seconds since 1970")
    return seconds


def unix_time_s() -> float:
    """Seconds since 1970, now."""
    return time.time()  # noqa: TID251  # It is no duration.


def _seconds(value: object) -> int:
    if isinstance(value, str):
        return _parse(value.strip())
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp() // 1)
    if isinstance(value, date):
        return _seconds(datetime(value.year, value.month, value.day))
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    raise ValueError(_EXPECTED)


def _parse(text: str) -> int:
    try:
        return int(text) if text.isascii() and text.isdigit() else _seconds(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError(_EXPECTED) from None
