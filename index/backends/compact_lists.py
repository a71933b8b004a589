"""Inverted lists without ids: all codes in one block of memory. Reads and writes files.

faiss keeps an id of 8 bytes for each vector in a list. It can also answer with lists and offsets in them, and then
reads no ids: so here the position of a vector is looked up after a search, among integers of as few bits as positions
need (20 for 1,000,000 vectors). Lists that faiss scans by registers ("fast scan") need their ids in a search.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from index.backends import faiss_support
from index.backends.faiss_support import faiss
from index.backends.packed_integers import U8, PackedIntegers, packed_bytes
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64

_INDEX, _SIZES, _CODES, _POSITIONS = "index", "sizes.npy", "codes.npy", "positions.npy"
_OFFSET_BITS = 32  # Of the label that faiss gives a candidate: its list, then its offset in that list.
_READ_AHEAD_BYTES = 64  # A register: what a scan may load beyond the last code.
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]


class CompactLists:
    """The lists of a faiss IVF index, with the position of each vector. Immutable; many threads may search at once."""

    def __init__(self, index: Any, sizes: I64, codes: Iterable[U8], positions: PackedIntegers) -> None:
        """index: a faiss IVF index, or an IndexPreTransform around one, that owns all its parts; it gets other lists.

        sizes (nlist,): of the lists; codes (n, code bytes) in parts, and n positions: list by list.
        """
        self.index = index
        self._sizes = sizes
        # What to add to a candidate's label, its list and its offset there, for its place among all codes.
        self._first_places = _starts(sizes) - (np.arange(len(sizes)) << _OFFSET_BITS)
        self._positions = positions
        self._ivf = faiss.extract_index_ivf(index)
        self._quantizer = self._ivf.quantizer
        self._codes = _place_codes(self._ivf, sizes, codes)
        self._ivf.ntotal = index.ntotal = len(self._codes)
        self._parameters = faiss_support.SearchParameters()

    @classmethod
    def of(cls, index: Any) -> CompactLists:
        """Those of an index whose lists hold the positions as ids. It is taken over."""
        lists = faiss.extract_index_ivf(index).invlists
        sizes = np.array([lists.list_size(number) for number in range(lists.nlist)], dtype=np.int64)
        filled = np.flatnonzero(sizes).tolist()
        ids = np.concatenate([faiss.rev_swig_ptr(lists.get_ids(number), int(sizes[number])) for number in filled])
        codes = (faiss.rev_swig_ptr(lists.get_codes(number), int(sizes[number]) * lists.code_size) for number in filled)
        return cls(index, sizes, codes, PackedIntegers.pack(ids, len(ids)))

    def search(self, queries: F32, count: int, nprobe: int) -> I64:
        """(n, count) positions of the best of each query (n, dim) in the `nprobe` nearest lists; −1: no more."""
        # faiss's own functions take 20 µs of Python less than their wrappers.
        queries, (n, nprobe) = faiss_support.as_float32(queries), (len(queries), min(nprobe, len(self._sizes)))
        scores, lists = np.empty((n, nprobe), np.float32), np.empty((n, nprobe), np.int64)
        estimates, labels = np.empty((n, count), np.float32), np.empty((n, count), np.int64)
        queries_ptr, scores_ptr, lists_ptr, estimates_ptr, labels_ptr = map(
            faiss.swig_ptr, (queries, scores, lists, estimates, labels)
        )
        self._quantizer.search_c(n, queries_ptr, nprobe, scores_ptr, lists_ptr)
        self._ivf.search_preassigned_c(
            n, queries_ptr, count, lists_ptr, scores_ptr, estimates_ptr, labels_ptr, True, self._parameters[nprobe]
        )
        places = labels + self._first_places[labels >> _OFFSET_BITS]
        if (labels[:, -1] >= 0).all():
            return self._positions[places]
        found = labels >= 0
        return np.where(found, self._positions[places * found], -1)

    def empty_copy(self) -> Any:
        """A copy of the index whose lists are faiss's own, and empty."""
        copy = faiss.deserialize_index(faiss.serialize_index(self.index), faiss.IO_FLAG_SKIP_IVF_DATA)
        ivf = faiss.extract_index_ivf(copy)
        _replace_lists(ivf, faiss.ArrayInvertedLists(ivf.nlist, ivf.code_size))
        ivf.ntotal = copy.ntotal = 0
        return copy

    def copy_with_ids(self) -> Any:
        """A copy of the index whose lists are faiss's own, and hold positions as ids."""
        copy = self.empty_copy()
        ivf = faiss.extract_index_ivf(copy)
        positions = self._positions[np.arange(len(self._codes))]
        for number, (start, size) in enumerate(zip(_starts(self._sizes).tolist(), self._sizes.tolist(), strict=True)):
            ids, codes = positions[start : start + size], self._codes[start : start + size]
            ivf.invlists.add_entries(number, size, faiss.swig_ptr(ids), faiss.swig_ptr(codes))
        ivf.ntotal = copy.ntotal = len(positions)
        return copy

    def ram_bytes(self) -> int:
        arrays = (self._codes, self._positions.packed, self._first_places, self._sizes)
        return int(faiss.serialize_index(self.index).nbytes) + sum(array.nbytes for array in arrays)

    def write(self, path: Path) -> None:
        """Write a directory of files."""
        path.mkdir()
        faiss.write_index(self.index, str(path / _INDEX))
        for name, array in ((_SIZES, self._sizes), (_CODES, self._codes), (_POSITIONS, self._positions.packed)):
            np.save(path / name, array)


def read_lists(path: Path) -> CompactLists:
    """Raises BadArtifact."""
    try:
        index = faiss.read_index(str(path / _INDEX), faiss.IO_FLAG_SKIP_IVF_DATA)
        ivf = faiss.extract_index_ivf(index)
        sizes, packed = (np.load(path / name, allow_pickle=False) for name in (_SIZES, _POSITIONS))
        codes = np.load(path / _CODES, allow_pickle=False, mmap_mode="r")  # Copied from there, so that it is read once.
    except (RuntimeError, ValueError, OSError, EOFError, AttributeError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    if sizes.shape != (ivf.nlist,) or sizes.dtype != np.int64 or (sizes < 0).any():
        raise BadArtifact(f"{path / _SIZES}: {sizes.dtype} {sizes.shape}, expected the sizes of {ivf.nlist} lists")
    count = int(sizes.sum())
    if codes.shape != (count, ivf.code_size) or codes.dtype != np.uint8:
        raise BadArtifact(f"{path / _CODES}: {codes.dtype} {codes.shape}, expected uint8 {(count, ivf.code_size)}")
    if packed.shape != (packed_bytes(count, count),) or packed.dtype != np.uint8:
        raise BadArtifact(f"{path / _POSITIONS}: {packed.dtype} {packed.shape}, expected the positions of {count}")
    return CompactLists(index, sizes, [codes], PackedIntegers(packed, count))


def _starts(sizes: I64) -> I64:
    """Where each list begins."""
    return np.cumsum(sizes) - sizes


def _place_codes(ivf: Any, sizes: I64, codes: Iterable[U8]) -> U8:
    """Copy codes to a block of memory that the index owns, and replace its lists by such of this block.

    These are faiss's lists "on disk", the only ones whose codes may lie anywhere. They unmap the block when freed.
    """
    lists = faiss.OnDiskInvertedLists(len(sizes), ivf.code_size, "")
    size_bytes = int(sizes.sum()) * ivf.code_size
    lists.read_only, lists.prefetch_nthread, lists.totsize = True, 0, size_bytes + _READ_AHEAD_BYTES
    lists.ptr = faiss.cast_integer_to_uint8_ptr(_map_memory(lists.totsize))
    lists.lists.clear()
    for size, start in zip(sizes.tolist(), _starts(sizes).tolist(), strict=True):
        each = faiss.OnDiskOneList()
        each.size, each.capacity, each.offset = size, size, start * ivf.code_size
        lists.lists.push_back(each)
    placed: U8 = faiss.rev_swig_ptr(lists.ptr, size_bytes)
    end = 0
    for part in codes:
        start, end = end, end + part.size
        placed[start:end] = part.ravel()
    _replace_lists(ivf, lists)
    return placed.reshape(-1, ivf.code_size)


def _replace_lists(ivf: Any, lists: Any) -> None:
    lists.this.disown()
    ivf.replace_invlists(lists, True)


def _map_memory(size: int) -> int:
    """The address of so many bytes of this process's own memory."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    address = _LIBC.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
    if address is None or address == ctypes.c_void_p(-1).value:
        raise MemoryError(f"{size} bytes of codes")
    return int(address)
