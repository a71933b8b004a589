"""Moments, from what people and tables write."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta, timezone

import pytest

from lookalike.timestamps import MAX_UNIX_S, unix_s


@pytest.mark.parametrize(
    "given",
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
def test_one_moment_is_one_number_of_seconds_however_it_is_written(given: object) -> None:
    assert unix_s(given) == 1_764_062_700


def test_a_date_is_its_first_second() -> None:
    assert unix_s(date(2025, 11, 25)) == unix_s("2025-11-25") == 1_764_028_800


@pytest.mark.parametrize("given", [0, MAX_UNIX_S, "1970-01-01"])
def test_at_its_bounds_a_moment_is_one(given: object) -> None:
    assert 0 <= unix_s(given) <= MAX_UNIX_S


@pytest.mark.parametrize(
    "given", [-1, MAX_UNIX_S + 1, 1.5, True, None, "", "yesterday", "1e9", "-5", "١٢", "9" * 5000, date(1969, 12, 31)]
)
def test_what_is_no_moment_is_refused(given: object) -> None:
    with pytest.raises(ValueError, match="1970"):
        unix_s(given)
