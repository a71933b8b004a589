"""A bitmap of the vectors, or of the rows of a table, that pass a filter. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]

_CHUNK_BYTES = 1 << 10  # Unpacked at a time by `rows_from`.


@dataclass(frozen=True)
class FilterBitmap:
    """The rows that pass, as packed bits (row 0 is the lowest bit of the first byte)."""

    bits: npt.NDArray[np.uint8]
    total: int  # Number of rows.
    count: int  # Number of rows that pass.

    @classmethod
    def from_mask(cls, mask: Mask) -> FilterBitmap:
        return cls(np.packbits(mask, bitorder="little"), len(mask), int(np.count_nonzero(mask)))

    def without(self, rows: npt.NDArray[np.int64]) -> FilterBitmap:
        """A copy with the bits of these rows cleared."""
        bits = self.bits.copy()
        np.bitwise_and.at(bits, rows >> 3, ~(np.uint8(1) << (rows & 7).astype(np.uint8)))
        return FilterBitmap(bits, self.total, int(np.bitwise_count(bits).sum()))

    def __and__(self, other: FilterBitmap) -> FilterBitmap:
        """The rows that pass both."""
        bits = self.bits & other.bits
        return FilterBitmap(bits, self.total, int(np.bitwise_count(bits).sum()))

    def __contains__(self, row: int) -> bool:
        return bool(self.bits[row >> 3] >> (row & 7) & 1)

    def passes(self, rows: npt.NDArray[np.int64]) -> Mask:
        """For each of these rows (an array of any shape) whether it passes; false for −1."""
        passes: Mask = (self.bits[rows >> 3] >> (rows & 7).astype(np.uint8) & 1).view(np.bool_) & (rows >= 0)
        return passes

    @property
    def mask(self) -> Mask:
        return np.unpackbits(self.bits, count=self.total, bitorder="little").view(np.bool_)

    def mask_of(self, start: int, end: int) -> Mask:
        """The part of the mask from row `start` to before row `end`."""
        first = start >> 3
        part = np.unpackbits(self.bits[first : (end + 7) >> 3], count=end - 8 * first, bitorder="little")
        return part[start - 8 * first :].view(np.bool_)

    @property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows that pass, rising. Not cached: they can take 64 times the memory of the bits."""
        return np.flatnonzero(self.mask)

    def rows_from(self, start: int) -> Iterator[int]:
        """The rows that pass, rising, from `start` on; unpacks only as many bits as the caller reads."""
        for first in range(start >> 3, len(self.bits), _CHUNK_BYTES):
            rows = np.flatnonzero(np.unpackbits(self.bits[first : first + _CHUNK_BYTES], bitorder="little")) + 8 * first
            yield from rows[rows >= start].tolist()
