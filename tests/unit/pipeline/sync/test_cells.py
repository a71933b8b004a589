from __future__ import annotations

import math
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from lookalike.product_rules import BadField
from pipeline.sync.cells import cell, is_deleted, tags_cell

TOKYO = ZoneInfo("Asia/Tokyo")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        (0, 0),
        ("", ""),
        ("0000-00-00 00:00:00", None),
        ("0000-00-00", None),
        (Decimal("12345678901234567890"), 12345678901234567890),
        (Decimal("19.90"), 19.9),
        (Decimal("2.00"), 2),
        (b"\xe8\xa2\xab", "被"),
        (memoryview(b"mug"), "mug"),
        (b"\x00", False),
        (b"\x01", True),
        (UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        (time(9, 30), "09:30:00"),
        (timedelta(hours=1), "1:00:00"),
        (["Red", Decimal(7)], ["Red", 7]),
        ({"a": ["é"]}, '{"a": ["é"]}'),
        (date(2026, 11, 25), date(2026, 11, 25)),
    ],
)
def test_a_value_becomes_a_cell(value: object, expected: Any) -> None:
    assert cell("c", value, UTC) == expected


def test_a_time_without_a_zone_is_one_of_the_stated_zone() -> None:
    assert cell("c", datetime(2026, 11, 25, 9), TOKYO) == datetime(2026, 11, 25, 0, tzinfo=UTC)
    assert cell("c", datetime(2026, 11, 25, 9, tzinfo=UTC), TOKYO) == datetime(2026, 11, 25, 9, tzinfo=UTC)


def test_a_decimal_that_is_no_number_is_none_either_as_a_cell() -> None:
    assert math.isnan(cell("c", Decimal("NaN"), UTC))


@pytest.mark.parametrize("value", [b"\xff\xfe", object(), 1j])
def test_what_cannot_be_a_cell_names_its_column(value: object) -> None:
    with pytest.raises(BadField, match="the column colour"):
        cell("colour", value, UTC)


@pytest.mark.parametrize(
    ("value", "expected"),
    [('["a", "b"]', ["a", "b"]), ("a|b", "a|b"), ("[a", "[a"), ("[" * 100_000, "[" * 100_000), (["a"], ["a"])],
)
def test_tags_may_be_the_text_of_a_json_list(value: Any, expected: Any) -> None:
    assert tags_cell(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, False),
        (False, False),
        (0, False),
        ("", False),
        ("f", False),
        ("No", False),
        (True, True),
        (2, True),
        ("t", True),
        ("2026-11-25 10:00:00", True),
        (datetime(2026, 11, 25), True),
        (date(2026, 11, 25), True),
    ],
)
def test_a_row_is_deleted_where_its_column_is_true_or_a_time(value: Any, expected: bool) -> None:
    assert is_deleted("deleted", value) is expected


def test_a_column_that_says_neither_is_a_bad_field() -> None:
    with pytest.raises(BadField, match="deleted_at says neither"):
        is_deleted("deleted_at", "perhaps")
