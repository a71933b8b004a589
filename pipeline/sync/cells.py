"""Values of a SQL database as the cells of a table: what the rules for a product read. Pure."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from lookalike.product_rules import BadField, RejectReason
from lookalike.strict_json import parse_json

# MySQL's BIT(1) comes as a byte. No text consists of one of these.
_BITS: Final = {b"\x00": False, b"\x01": True}
_ZERO_DATE: Final = re.compile(r"0000-00-00(?:[ T]00:00:00(?:\.0+)?)?")


def cell(column: str, value: object, zone: tzinfo) -> Any:
    """The value as a cell. NULL is None: not given.

    A decimal that is a whole number is an exact integer, another one the nearest double. Bytes are UTF-8 text, or one
    bit. A time without a time zone is one of `zone`. An array is a list, an object of JSON its text, a UUID its text.
    Raises BadField for bytes that are no text, and for other types.
    """
    result: Any = value
    match value:
        case None | bool() | int() | float():
            pass
        case str():
            result = None if _ZERO_DATE.fullmatch(value) else value
        case Decimal():
            result = _number(value)
        case datetime():
            result = value if value.tzinfo else value.replace(tzinfo=zone)
        case bytes() | bytearray() | memoryview():
            result = _text_or_bit(column, bytes(value))
        case UUID() | time() | timedelta():
            result = str(value)
        case list() | tuple() | set() | frozenset():
            result = [cell(column, each, zone) for each in value]
        case Mapping():
            result = json.dumps(value, ensure_ascii=False, default=str)
        case _ if not isinstance(value, date):
            detail = f"the column {column} holds a value of the type {type(value).__name__}: cast it to text"
            raise BadField("", RejectReason.BAD_TEXT, detail)
    return result


def tags_cell(value: Any) -> Any:
    """A cell of tags: the list, where it is the text of a JSON list, as MySQL and SQLite return their JSON."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return value
    try:
        items = parse_json(value)
    except ValueError:
        return value
    return items if isinstance(items, list) else value


def is_deleted(column: str, value: Any) -> bool:
    """Whether the cell says that its row is deleted: true, a number but 0, or any time; NULL, false and 0 do not."""
    if isinstance(value, str):
        text = value.strip().lower()
        if text in ("", "0", "f", "false", "n", "no"):
            return False
        if text in ("1", "t", "true", "y", "yes") or _is_time(text):
            return True
    elif value is None or isinstance(value, bool | int | float | date):
        return bool(value)
    raise BadField("", RejectReason.BAD_TEXT, f"{column} says neither that the row is deleted nor that it is not")


def _is_time(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def _number(value: Decimal) -> int | float:
    if not value.is_finite():
        return math.nan
    return int(value) if value == value.to_integral_value() else float(value)


def _text_or_bit(column: str, value: bytes) -> Any:
    if (bit := _BITS.get(value)) is not None:
        return bit
    try:
        return value.decode()
    except UnicodeDecodeError:
        detail = f"the column {column} holds {len(value)} bytes that are not UTF-8 text"
        raise BadField("", RejectReason.BAD_TEXT, detail) from None
