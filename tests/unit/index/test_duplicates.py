"""Groups of equal vectors."""

from __future__ import annotations

import numpy as np

from index.backends.duplicates import DuplicateGroups, group_equal_vectors
from tests.unit.index.samples import unit_vectors


def test_equal_vectors_are_in_one_group_and_groups_are_numbered_by_first_occurrence() -> None:
    vectors = unit_vectors(5, 8)[[0, 1, 0, 2, 1, 3, 4]]
    assert group_equal_vectors(vectors).tolist() == [0, 1, 0, 2, 1, 3, 4]
    assert group_equal_vectors(vectors.astype(np.float16)).tolist() == [0, 1, 0, 2, 1, 3, 4]


def test_vectors_that_differ_in_one_bit_are_in_two_groups() -> None:
    vectors = np.repeat(unit_vectors(1, 8), 2, axis=0)
    vectors[1, 7] = np.nextafter(vectors[1, 7], np.float32(1))
    assert group_equal_vectors(vectors).tolist() == [0, 1]


def test_a_group_is_replaced_by_its_members_and_what_exceeds_the_count_is_cut_off() -> None:
    groups = DuplicateGroups(np.array([0, 1, 0, 2, 1, 0], dtype=np.int32))
    assert groups.first_positions.tolist() == [0, 1, 3]
    found = np.array([[2, 0, -1], [1, 2, 0], [-1, -1, -1]])
    assert groups.expand(found, 5).tolist() == [[3, 0, 2, 5, -1], [1, 4, 3, 0, 2], [-1] * 5]
    assert groups.expand(found, 2).tolist() == [[3, 0], [1, 4], [-1, -1]]
