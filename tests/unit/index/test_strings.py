"""Columns of strings: single values, several at once, and bisection."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from index.storage.strings import SortedStrings, Strings

VALUES = ["", "a", "añb", "b", "b/c", "b0", "ｚ"]


@pytest.mark.parametrize("start", [0, 2])
def test_several_values_of_a_sliced_column_are_read_at_once_in_any_order(start: int) -> None:
    strings = Strings(pa.array(VALUES, pa.large_string()).slice(start))
    rows = np.array([3, 0, 3, len(VALUES) - start - 1])
    assert strings.texts_at(rows) == [VALUES[start + row] for row in rows]
    assert strings.values_at(rows) == [strings[row] for row in rows]
    assert strings.texts_at(rows[:0]) == []


def test_values_are_found_by_equality_and_by_prefix() -> None:
    strings = SortedStrings(pa.array(VALUES, pa.large_string()))
    assert [strings.find(value.encode()) for value in VALUES] == [*range(len(VALUES))]
    assert strings.find(b"c") is None
    assert strings.starting_with(b"b/") == slice(4, 5)
    assert strings.after(b"b/") == 4


@pytest.mark.parametrize(
    "values",
    [
        [],
        ["same"],
        [f"item-{number}" for number in range(300)],
        ["x" * length for length in range(40)],  # The eight bytes of most are the same.
        ["p\0", "p\0\0", "pa", "pbbbbbbbb", "pbbbbbbbba", "pbbbbbbbbz", "pé"],
    ],
)
def test_values_that_begin_alike_are_told_apart(values: list[str]) -> None:
    values = sorted(values, key=str.encode)
    strings = SortedStrings(pa.array(values, pa.large_string()))
    others = {other for value in values for other in (value[:-1], value + "\0", value + "z", value.upper())} - {*values}
    assert [strings.find(value.encode()) for value in values] == [*range(len(values))]
    assert not [other for other in {*others, "", "zzz"} - {*values} if strings.find(other.encode()) is not None]
