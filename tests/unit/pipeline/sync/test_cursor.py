from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from lookalike.errors import BadSettings
from pipeline.sync import cursor as cursors

AT = datetime(2026, 11, 25, 10)
VALUES = [AT, AT.replace(tzinfo=UTC), date(2026, 11, 25), 7, 1.5, Decimal("1.50"), "2026-11-25 10:00:00"]


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_a_cursor_is_kept_with_its_type(value: Any) -> None:
    kept = cursors.loads(cursors.dumps(value))
    assert kept == value
    assert type(kept) is type(value)


@pytest.mark.parametrize("value", VALUES, ids=repr)
def test_just_before_is_below_and_an_overlap_goes_further_back(value: Any) -> None:
    assert cursors.is_greater(value, cursors.just_before(value))
    assert cursors.is_greater(value, cursors.before(value, None))
    assert cursors.before(value, 0.0) == value


@pytest.mark.parametrize(
    ("value", "overlap", "expected"),
    [
        (AT, 30.0, datetime(2026, 11, 25, 9, 59, 30)),
        (date(2026, 11, 25), 30.0, date(2026, 11, 24)),
        ("2026-11-25 10:00:00", 30.0, "2026-11-25 09:59:30"),
        ("2026-11-25T10:00:00.250Z", 30.0, "2026-11-25T09:59:30.250000Z"),
        ("2026-11-25T10:00:00+09:00", 30.0, "2026-11-25T09:59:30+09:00"),
        ("2026-11-25", 30.0, "2026-11-24"),
        (1000, 30.0, 970),
        (Decimal("1000.5"), 30.0, Decimal("970.5")),
    ],
)
def test_an_overlap_is_in_seconds_or_in_the_units_of_a_number(value: Any, overlap: float, expected: Any) -> None:
    assert cursors.before(value, overlap) == expected


def test_an_overlap_before_the_first_year_is_refused() -> None:
    with pytest.raises(BadSettings, match="before the first year"):
        cursors.before(AT, 1e14)


@pytest.mark.parametrize("value", [None, True, b"x", "yesterday", float("nan"), Decimal("Infinity")])
def test_what_is_no_cursor_is_said(value: object) -> None:
    with pytest.raises(ValueError, match="is "):
        cursors.check_cursor(value)


@pytest.mark.parametrize(("left", "right"), [(AT, 5), ("2026-11-25", AT), (AT, date(2026, 11, 25)), (5, "2026-11-25")])
def test_cursors_of_two_kinds_are_refused(left: Any, right: Any) -> None:
    with pytest.raises(BadSettings, match="of another type now"):
        cursors.is_greater(left, right)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (AT.replace(tzinfo=UTC), 1795600800_000000),
        (AT, 1795568400_000000),
        ("2026-11-25 10:00:00", 1795568400_000000),
        (date(2026, 11, 25), 1795532400_000000),
        (17, None),
    ],
)
def test_a_time_is_one_of_its_zone_and_a_number_is_none(value: Any, expected: int | None) -> None:
    assert cursors.unix_us(value, ZoneInfo("Asia/Tokyo")) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("0", 0), ("1.5", Decimal("1.5")), ("1970-01-01", date(1970, 1, 1)), ("2026-11-25T10:00:00", AT)],
)
def test_a_person_writes_a_cursor_as_a_number_or_a_time(text: str, expected: Any) -> None:
    parsed = cursors.parse(text)
    assert parsed == expected
    assert type(parsed) is type(expected)


def test_other_texts_are_refused() -> None:
    with pytest.raises(BadSettings, match="neither a number nor a time"):
        cursors.parse("monday")
