"""Timestamps from numbers, dates, times and texts."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from lookalike.timestamps import MAX_UNIX_S, unix_s


@pytest.mark.parametrize(
    "value",
    [
        1_764_062_700,
        " 1764062700 ",
        "2025-11-25T09:25",
        "2025-11-25 09:25:00.999999",
        "2025-11-25T18:25+09:00",
        datetime(2025, 11, 25, 9, 25),
        datetime(2025, 11, 25, 9, 25, tzinfo=UTC),
        datetime(2025, 11, 25, 4, 25, tzinfo=timezone(timedelta(hours=-5))),
    ],
)
def test_every_way_to_write_a_time_gives_the_same_seconds(value: object) -> None:
    assert unix_s(value) == 1_764_062_700


def test_a_date_is_its_first_second_in_utc() -> None:
    assert unix_s(date(2025, 11, 25)) == unix_s("2025-11-25") == 1_764_028_800


@pytest.mark.parametrize("value", [0, MAX_UNIX_S, "1970-01-01"])
def test_the_bounds_are_valid_timestamps(value: object) -> None:
    assert 0 <= unix_s(value) <= MAX_UNIX_S


@pytest.mark.parametrize(
    "value", [-1, MAX_UNIX_S + 1, 1.5, True, None, "", "yesterday", "1e9", "-5", "١٢", "9" * 5000, date(1969, 12, 31)]
)
def test_anything_else_is_refused(value: object) -> None:
    with pytest.raises(ValueError, match="1970"):
        unix_s(value)
