"""Which of some vectors, or rows of a table, pass: as bits. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_BYTES = 1 << 10  # Looked at together.


@dataclass(frozen=True)
class Passing:
    """The rows that pass, as packed bits (row 0 is the lowest bit of the first byte)."""

    bits: npt.NDArray[np.uint8]
    total: int  # Rows, passing or not.
    count: int  # Rows that pass.

    @classmethod
    def of(cls, mask: Mask) -> Passing:
        return cls(np.packbits(mask, bitorder="little"), len(mask), int(np.count_nonzero(mask)))

    def without(self, rows: npt.NDArray[np.int64]) -> Passing:
        """A copy in which these rows pass no longer."""
        bits = self.bits.copy()
        np.bitwise_and.at(bits, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
        return Passing(bits, self.total, int(np.bitwise_count(bits).sum()))

    def __and__(self, other: Passing) -> Passing:
        """The rows that pass both."""
        bits = self.bits & other.bits
        return Passing(bits, self.total, int(np.bitwise_count(bits).sum()))

    def __contains__(self, row: int) -> bool:
        return bool(self.bits[row >> 3] >> (row & 7) & 1)

    def among(self, rows: npt.NDArray[np.int64]) -> Mask:
        """Which of these rows, of any shape, pass; −1 does not."""
        passes: Mask = (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).view(np.bool_) & (rows >= 0)
        return passes

    @property
    def mask(self) -> Mask:
        return np.unpackbits(self.bits, count=self.total, bitorder="little").view(np.bool_)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows that pass, rising. Made anew each time: kept, they would take up to 64 times what the bits take."""
        return np.flatnonzero(self.mask)

    def rows_from(self, start: int) -> Iterator[int]:
        """The rows that pass, rising, from `start` on: of no more bits than it takes."""
        for first in range(start >> 3, len(self.bits), _BYTES):
            rows = np.flatnonzero(np.unpackbits(self.bits[first : first + _BYTES], bitorder="little")) + 8 * first
            yield from rows[rows >= start].tolist()
