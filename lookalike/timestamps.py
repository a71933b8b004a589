"""Moments as seconds since 1970 in UTC, from what people and tables write. Pure."""

from __future__ import annotations

from datetime import UTC, date, datetime

_NEITHER = "neither seconds since 1970 nor a time like 2026-11-25 or 2026-11-25T09:30+09:00"
MAX_UNIX_S = 10**11 - 1  # In the year 5138. What is more was meant in milliseconds.


def unix_s(given: object) -> int:
    """Of a number of seconds, a date or a time, or any of them as text (ISO 8601). Where no zone is stated, UTC.

    Raises ValueError with what is wrong with it.
    """
    seconds = _seconds(given)
    if not 0 <= seconds <= MAX_UNIX_S:
        raise ValueError("not between 1970 and 5138: seconds since 1970 are meant")
    return seconds


def _seconds(given: object) -> int:
    if isinstance(given, str):
        return _written(given.strip())
    if isinstance(given, datetime):
        return int((given if given.tzinfo else given.replace(tzinfo=UTC)).timestamp() // 1)
    if isinstance(given, date):
        return _seconds(datetime(given.year, given.month, given.day))
    if isinstance(given, int) and not isinstance(given, bool):
        return given
    raise ValueError(_NEITHER)


def _written(text: str) -> int:
    try:
        return int(text) if text.isascii() and text.isdigit() else _seconds(datetime.fromisoformat(text))
    except ValueError:
        raise ValueError(_NEITHER) from None
