"""The index of rows by key: the newest row is found, whatever the order in which parts are added."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.features.key_index import KeyIndex, Rows, digests_of, keys_of


def digest(number: int) -> str:
    return f"{number:032x}"


def rows_of(part: int, written: dict[int, int]) -> Rows:
    """Rows of a part: the time of each key's number."""
    count = len(written)
    return Rows(
        keys=keys_of([digest(number) for number in written]),
        written_us=np.array([*written.values()], np.int64),
        parts=np.full(count, part, np.int32),
        rows=np.arange(count, dtype=np.int32),
        checksums=np.arange(count, dtype=np.uint32),
    )


@given(st.lists(st.dictionaries(st.integers(0, 40), st.integers(0, 30), max_size=20), max_size=12))
def test_of_every_key_the_row_written_last_is_found(parts: list[dict[int, int]]) -> None:
    index, expected = KeyIndex(), dict[int, tuple[int, int, int]]()
    for part, written in enumerate(parts):
        index.add(rows_of(part, written))
        for row, (number, time) in enumerate(written.items()):
            expected[number] = max(expected.get(number, (-1, -1, -1)), (time, part, row))

    found = index.find(keys_of([digest(number) for number in range(45)]))

    for number in range(45):
        time, part, row = expected.get(number, (-1, -1, -1))
        assert (found.parts[number], found.rows[number]) == (part, row)
        assert time < 0 or found.written_us[number] == time
    assert len(index) == len(expected)


def test_keys_that_end_with_zeros_are_different_keys() -> None:
    index = KeyIndex()
    index.add(rows_of(0, {1 << 120: 5, 1 << 112: 6, 0: 7}))

    found = index.find(keys_of([digest(0), digest(1 << 112), digest(1 << 120), digest(1 << 104)]))

    assert found.written_us[:3].tolist() == [7, 6, 5]
    assert found.parts[3] == -1
    assert digests_of(index.rows().keys) == [digest(0), digest(1 << 112), digest(1 << 120)]


def test_rows_of_removed_parts_are_not_found() -> None:
    index = KeyIndex()
    for part in range(5):
        index.add(rows_of(part, {part: 1, 10 + part: 1}))

    index.remove_parts([1, 3])
    index.remove_rows(4, np.array([1], np.int32))

    found = index.find(keys_of([digest(number) for number in (0, 1, 2, 3, 4, 14)]))
    assert (found.parts >= 0).tolist() == [True, False, True, False, True, False]


@pytest.mark.parametrize("text", ["", "00", "0" * 31, "g" * 32])
def test_a_key_has_32_hexadecimal_digits(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # of two libraries
        keys_of([text])
