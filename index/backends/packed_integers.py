"""Integers in as few bits as the largest of them needs. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from lookalike.vectors import I64

_CHUNK = 1 << 16  # Packed at a time; a multiple of 8, so that every chunk begins with a byte.
_WINDOW = np.dtype("<i8")  # Read at a time: an integer of up to 57 bits, wherever in a byte it begins.

U8 = npt.NDArray[np.uint8]


class PackedIntegers:
    """An array of integers from 0 to below a limit, of which many can be read at once."""

    def __init__(self, packed: U8, limit: int) -> None:
        """packed: as `pack` made it, for the same limit."""
        self.packed = packed
        self._bits = bits_for(limit)
        self._mask = (1 << self._bits) - 1
        # Windows that overlap: one begins with every byte.
        self._windows = np.ndarray((len(packed) - _WINDOW.itemsize + 1,), _WINDOW, packed, strides=(1,))

    @classmethod
    def pack(cls, integers: I64, limit: int) -> PackedIntegers:
        bits = bits_for(limit)
        packed = np.zeros(packed_bytes(len(integers), limit), dtype=np.uint8)
        for start in range(0, len(integers), _CHUNK):
            chunk = integers[start : start + _CHUNK].astype(_WINDOW)
            each = np.unpackbits(chunk.view(np.uint8).reshape(-1, _WINDOW.itemsize), axis=1, bitorder="little")
            part = np.packbits(each[:, :bits], bitorder="little")
            packed[start * bits // 8 :][: len(part)] = part
        return cls(packed, limit)

    def __getitem__(self, at: I64) -> I64:
        """The integers at these places (an array of any shape)."""
        bit = at * self._bits
        integers: I64 = self._windows[bit >> 3] >> (bit & 7) & self._mask
        return integers


def packed_bytes(count: int, limit: int) -> int:
    """The size of so many integers below a limit, packed: the last of them is read by a whole window, too."""
    return (count * bits_for(limit) + 7) // 8 + _WINDOW.itemsize


def bits_for(limit: int) -> int:
    """Bits of an integer below a limit."""
    return max(1, (limit - 1).bit_length())
