"""Which of some vectors, or rows of a table, pass: as bits for faiss. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Passing:
    """The rows that pass, as packed bits (row 0 is the lowest bit of the first byte, as faiss reads them)."""

    bits: npt.NDArray[np.uint8]
    total: int  # Rows, passing or not.
    count: int  # Rows that pass.

    @classmethod
    def of(cls, mask: Mask) -> Passing:
        return cls(np.packbits(mask, bitorder="little"), len(mask), int(np.count_nonzero(mask)))

    @property
    def mask(self) -> Mask:
        return np.unpackbits(self.bits, count=self.total, bitorder="little").view(np.bool_)

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """The rows that pass, rising."""
        return np.flatnonzero(self.mask)
