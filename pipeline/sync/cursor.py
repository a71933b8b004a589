"""The value of a cursor column: how it is compared, kept, and gone back from. Pure.

A cursor is a time, a date, a number, or the text of a time, as SQLite has them. Texts of times are compared as texts,
as the database does it, so they must all be written in one way.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final

from lookalike.errors import BadSettings
from lookalike.strict_json import parse_json

Cursor = int | float | Decimal | datetime | date | str

_SMALLEST_DECIMAL: Final = Decimal("1e-9")
_DAY_S: Final = 86_400
DEFAULT_OVERLAP_S: Final = 60.0  # Of times. Transactions of a shop take less.
DEFAULT_OVERLAP: Final = 1000.0  # Of numbers: so many rows may be written by transactions that are not committed yet.


def check_cursor(value: object) -> Cursor:
    """A value as a cursor. Raises ValueError, which says what is wrong."""
    if value is None:
        raise ValueError("is NULL")
    if isinstance(value, bool) or not isinstance(value, Cursor):
        raise ValueError(f"is of the type {type(value).__name__}: neither a time nor a number")
    if isinstance(value, str) and _time_of_text(value) is None:
        raise ValueError(f"is the text {value[:40]!r}, which is no time")
    if (isinstance(value, float) and not math.isfinite(value)) or (
        isinstance(value, Decimal) and not value.is_finite()
    ):
        raise ValueError(f"is {value}")
    return value


def is_greater(left: Cursor, right: Cursor) -> bool:
    """Whether left is after right. Raises BadSettings if they are not of one kind."""
    try:
        if isinstance(left, str) != isinstance(right, str) or isinstance(left, datetime) != isinstance(right, datetime):
            raise TypeError
        return left > right  # type: ignore[operator]  # raises TypeError
    except TypeError:
        message = f"the cursor is {describe(left)}, and was {describe(right)}: its column is of another type now"
        raise BadSettings(f"{message}; --restart begins anew") from None


def before(value: Cursor, overlap: float | None) -> Cursor:
    """The cursor from which rows are read again: so many seconds, or units of a number, before the value.

    overlap: None: the default of its kind. Raises BadSettings for one that goes too far.
    """
    try:
        match value:
            case datetime():
                return value - timedelta(seconds=_overlap_s(overlap))
            case date():
                return value - timedelta(days=math.ceil(_overlap_s(overlap) / _DAY_S))
            case str():
                return _text_before(value, timedelta(seconds=_overlap_s(overlap)))
            case Decimal():
                return value - Decimal(DEFAULT_OVERLAP if overlap is None else overlap)
            case int():
                return value - math.ceil(DEFAULT_OVERLAP if overlap is None else overlap)
        return value - (DEFAULT_OVERLAP if overlap is None else overlap)
    except OverflowError:
        raise BadSettings(f"--overlap {overlap}: goes back before the first year") from None


def just_before(value: Cursor) -> Cursor:
    """The greatest cursor below the value, so that `> :cursor` reads the value's own rows, too."""
    match value:
        case datetime():
            return value - timedelta(microseconds=1)
        case date():
            return value - timedelta(days=1)
        case str():
            return _text_before(value, timedelta(microseconds=1))
        case Decimal():
            return value - _SMALLEST_DECIMAL
        case int():
            return value - 1
    return math.nextafter(value, -math.inf)


def unix_us(value: Cursor, zone: tzinfo) -> int | None:
    """Microseconds since 1970 of a cursor that is a time; None: it is a number. zone: of times that state none."""
    if isinstance(value, str):
        value = _time_of_text(value) or 0
    if not isinstance(value, date):
        return None
    moment = value if isinstance(value, datetime) else datetime(value.year, value.month, value.day)
    moment = moment if moment.tzinfo else moment.replace(tzinfo=zone)
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def parse(text: str) -> Cursor:
    """A cursor as a person writes it: a number, or a time. Raises BadSettings."""
    text = text.strip()
    for read in (int, Decimal, date.fromisoformat, datetime.fromisoformat):
        try:
            return check_cursor(read(text))
        except (ValueError, ArithmeticError):
            continue
    raise BadSettings(f"--from {text}: neither a number nor a time such as 2026-11-25 or 2026-11-25T09:30:00+09:00")


def describe(value: Cursor) -> str:
    return value.isoformat(sep=" ") if isinstance(value, datetime) else str(value)


def dumps(value: Cursor) -> str:
    """The value as JSON, with its type."""
    kind = next(name for name, (type_, _) in _KINDS.items() if isinstance(value, type_))
    return json.dumps([kind, value.isoformat() if isinstance(value, date) else str(value)])


def loads(text: str) -> Cursor:
    """What `dumps` made. Raises ValueError, LookupError or TypeError for another text."""
    kind, value = parse_json(text)
    read: Cursor = _KINDS[kind][1](value)
    return read


# A datetime is a date, so it comes first.
_KINDS: Final[dict[str, tuple[type, Callable[[str], Any]]]] = {
    "datetime": (datetime, datetime.fromisoformat),
    "date": (date, date.fromisoformat),
    "int": (int, int),
    "float": (float, float),
    "decimal": (Decimal, Decimal),
    "text": (str, str),
}


def _overlap_s(overlap: float | None) -> float:
    return DEFAULT_OVERLAP_S if overlap is None else overlap


def _time_of_text(text: str) -> datetime | None:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return None


def _text_before(text: str, step: timedelta) -> str:
    """The text of an earlier time, written as this one is; a date alone goes back by whole days."""
    moment = datetime.fromisoformat(text)  # check_cursor saw to it.
    if len(text) <= len("2026-11-25"):
        return (moment - timedelta(days=math.ceil(step / timedelta(days=1)))).date().isoformat()
    earlier = moment - step
    digits = "microseconds" if earlier.microsecond or "." in text else "seconds"
    written = earlier.isoformat(sep=text[10], timespec=digits)
    return written.replace("+00:00", "Z") if text.endswith("Z") else written
