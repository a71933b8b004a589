"""Inverted lists as faiss keeps them, with an id per vector: those that it scans by registers. Reads and writes files.

Such a scan cannot tell which list a candidate is in, only its id. To scan a list at a time tells it, but takes 1.6
times as long (`PCAR256,IVF,RaBitQfs`, 12 of 2,048 lists, 40 candidates).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from index.backends import faiss_support
from index.backends.faiss_support import faiss
from lookalike.vectors import F32, I64


class FastScanLists:
    """`InvertedLists` of a faiss index that owns all its parts. The position of a vector is its id."""

    def __init__(self, index: Any) -> None:
        self.index = index
        self._ivf = faiss.extract_index_ivf(index)
        self._parameters = faiss_support.SearchParameters()

    def search(self, queries: F32, count: int, nprobe: int) -> I64:
        positions: I64 = self._ivf.search(queries, count, params=self._parameters[nprobe])[1]
        return positions

    def empty_copy(self) -> Any:
        copy = faiss_support.clone(self.index)
        copy.reset()
        return copy

    def copy_with_ids(self) -> Any:
        return faiss_support.clone(self.index)

    def ram_bytes(self) -> int:
        return faiss_support.index_bytes(self.index)

    def write(self, path: Path) -> None:
        faiss_support.write_index(self.index, path)
