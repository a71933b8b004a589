"""Integers in as few bits as the largest of them needs."""

from __future__ import annotations

import numpy as np
import pytest

from index.backends.packed_integers import PackedIntegers, bits_for, packed_bytes


@pytest.mark.parametrize("limit", [1, 2, 3, 255, 256, 257, 70_001, 1_000_000, 1 << 31, (1 << 31) + 1, 1 << 57])
def test_packed_integers_are_read_as_they_were_written(limit: int) -> None:
    """70,001 are more than are packed at a time."""
    integers = np.random.default_rng(0).integers(0, limit, 70_001)
    integers[:2] = 0, limit - 1
    packed = PackedIntegers.pack(integers, limit)
    assert (packed[np.arange(len(integers))] == integers).all()
    at = np.array([[70_000, 0], [1, 65_536]])
    assert (packed[at] == integers[at]).all()


@pytest.mark.parametrize(("limit", "bits"), [(1, 1), (2, 1), (3, 2), (256, 8), (257, 9), (1_000_000, 20)])
def test_an_integer_takes_the_bits_of_the_largest(limit: int, bits: int) -> None:
    assert bits_for(limit) == bits
    packed = PackedIntegers.pack(np.zeros(4001, dtype=np.int64), limit)
    assert packed.packed.nbytes == packed_bytes(4001, limit) == -(-4001 * bits // 8) + 8
