"""The parts of one directory, and the index of their rows. Does disk and network I/O. Thread-safe.

Every file named <time>-<random>.parquet is a part, so any number of processes add parts without a lock or a counter.
Of rows with one key the one written last counts. A part that compaction wrote names the parts that it replaces: they
are ignored from then on, and removed an hour later, so that who listed the directory meanwhile misses no row.
"""

from __future__ import annotations

import re
import threading
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from lookalike.errors import OperatorError
from lookalike.vectors import F32, I64
from pipeline.features import part
from pipeline.features.directory import STAGED, Directory, FileGone, FileStatus
from pipeline.features.key_index import KeyIndex, Keys, Rows, concatenate
from pipeline.features.part import PartFooter, PartFormat, UnusablePart

I32 = npt.NDArray[np.int32]
Clock = Callable[[], int]  # Microseconds since 1970.
Notice = Callable[[str], None]
_PART = re.compile(r"\d{16}-[0-9a-f]{32}\.parquet")
_CONCURRENT_FILES = 8
_SCRATCH_BYTES = 8 << 20  # Read at a time.
_MAX_GAP_BYTES = 32 << 10  # Between rows that are read with one call: two calls take longer than these bytes.
_ATTEMPTS = 5


def now_us() -> int:
    return time.time_ns() // 1000


def is_part(name: str) -> bool:
    return _PART.fullmatch(name) is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A readable part."""

    name: str
    number: int
    bytes: int
    footer: PartFooter


class Parts:
    """The parts of a directory."""

    def __init__(self, directory: Directory, part_format: PartFormat, *, clock: Clock, notice: Notice) -> None:
        """Read the keys of all parts. Raises OperatorError; BadArtifact for a part of another version of the schema."""
        self.directory = directory
        self.format = part_format
        self.clock = clock
        self.index = KeyIndex()
        self.unusable: dict[str, str] = {}  # What is wrong with files that are no part or damaged, by name.
        self._notice = notice
        self._parts: dict[str, Part] = {}  # Replaced ones, too.
        self._by_number: dict[int, Part] = {}
        self._indexed: set[int] = set()
        self._next_number = 0
        self._last_written_us = 0
        self._lock = threading.RLock()
        self.refresh()

    def refresh(self) -> None:
        """Read what other processes have added or compacted since."""
        with self._lock:
            files = self.directory.files()
            self._add([name for name in files if name not in self._parts and name not in self.unusable], files)
            for name in [name for name in self._parts if name not in files]:
                del self._parts[name]
            current = {each.number for each in self.current()}
            if stale := self._indexed - current:
                self.index.remove_parts(sorted(stale))
                self._indexed -= stale
                for number in stale:
                    self._by_number.pop(number, None)

    def _add(self, names: Sequence[str], files: dict[str, FileStatus]) -> None:
        numbers = range(self._next_number, self._next_number + len(names))
        self._next_number += len(names)
        with ThreadPoolExecutor(_CONCURRENT_FILES) as threads:
            loaded = [*threads.map(self._load, names, numbers)]
        added = []
        for name, number, result in zip(names, numbers, loaded, strict=True):
            if isinstance(result, str):
                self.tell(name, result)
            elif result is not None:
                footer, rows = result
                self._parts[name] = Part(name=name, number=number, bytes=files[name].bytes, footer=footer)
                added.append((self._parts[name], rows))
        replaced = self.replaced()
        for _, rows in added:
            if len(rows):
                self._last_written_us = max(self._last_written_us, int(rows.written_us.max()))
        self._index([(each, rows) for each, rows in added if each.name not in replaced])

    def _load(self, name: str, number: int) -> tuple[PartFooter, Rows] | str | None:
        """The footer and keys of a part; or what is wrong with it; None if it is gone or still being written."""
        if name.startswith(STAGED):
            return None
        if not is_part(name):
            return "not the name of a part"
        try:
            with self.directory.open(name) as file:
                return part.decode_keys(file, f"{self.directory}/{name}", self.format, number=number)
        except FileGone:
            return None
        except UnusablePart as error:
            return str(error)

    def _index(self, added: Sequence[tuple[Part, Rows]]) -> None:
        if added:
            self.index.add(concatenate([rows for _, rows in added]))
        for each, _ in added:
            self._indexed.add(each.number)
            self._by_number[each.number] = each

    def tell(self, name: str, reason: str) -> None:
        """Note once what is wrong with a file."""
        if name not in self.unusable:
            self.unusable[name] = reason
            self._notice(f"{self.directory}/{name}: ignored, {reason}")

    def all(self) -> list[Part]:
        return [*self._parts.values()]

    def replaced(self) -> set[str]:
        """The names of the parts whose rows are in others."""
        return {name for each in self._parts.values() for name in each.footer.replaces}

    def current(self) -> list[Part]:
        """The parts whose rows count, in order of their names."""
        replaced = self.replaced()
        return sorted((each for each in self._parts.values() if each.name not in replaced), key=lambda each: each.name)

    def next_time_us(self) -> int:
        """The time to write with a row: now, or later than that of every row read or written here.

        A clock that goes backwards, or another machine's that is ahead, makes no row older than one it replaces.
        """
        with self._lock:
            self._last_written_us = max(self.clock(), self._last_written_us + 1)
            return self._last_written_us

    def find(self, keys: Keys) -> Rows:
        with self._lock:
            return self.index.find(keys)

    def append(self, table: pa.Table, *, replaces: Collection[str] = ()) -> Part:
        """Write a part. Raises OperatorError if it cannot be written."""
        created_us = self.clock()
        name = f"{created_us:016d}-{uuid.uuid4().hex}.parquet"
        data = part.encode(table, self.format, created_us=created_us, replaces=replaces)
        footer, rows = part.decode_keys(pa.BufferReader(data), name, self.format, number=-1)
        self.directory.write(name, data)
        with self._lock:
            each = Part(name=name, number=self._next_number, bytes=data.size, footer=footer)
            self._next_number += 1
            self._parts[name] = each
            # Copies, not to keep the bytes of the part in memory.
            self._index([(each, rows.take(np.arange(len(rows))).in_part(each.number))])
        return each

    def read_vectors(self, keys: Keys, out: F32) -> I64:
        """Fill out (n, dim) with the vectors of keys. Returns the rows of out for which none is stored.

        A vector whose checksum differs is forgotten, and told of.
        """
        for _ in range(_ATTEMPTS):
            found = self.find(keys)
            is_missing = found.parts < 0
            try:
                for number in np.unique(found.parts[~is_missing]).tolist():
                    at = np.flatnonzero(found.parts == number)
                    each = self._part(number)
                    intact = self.read_vectors_of(each, found.rows[at], found.checksums[at], out, at)
                    if not intact.all():
                        self._forget(each, found.rows[at[~intact]])
                        is_missing[at[~intact]] = True
            except FileGone:
                self.refresh()
                continue
            return np.flatnonzero(is_missing).astype(np.int64)
        raise OperatorError(f"{self.directory}: its files are removed faster than they are read")

    def read_vectors_of(
        self, each: Part, rows: I32, checksums: npt.NDArray[np.uint32], out: F32, at: npt.NDArray[Any] | None = None
    ) -> npt.NDArray[np.bool_]:
        """Read rows of a part to the rows `at` of out (None: in order). Returns which have the right checksum."""
        row_bytes = self.format.row_bytes
        order = np.argsort(rows, kind="stable")
        rows, checksums, places = rows[order], checksums[order], order if at is None else at[order]
        scratch: F32 = np.empty((max(_SCRATCH_BYTES // row_bytes, 1), self.format.dim), np.float32)
        intact = np.ones(len(rows), dtype=bool)
        for first, end, spans in _batches(rows, len(scratch), max_gap=_MAX_GAP_BYTES // row_bytes):
            starts, pieces, read, used = [], [], [], 0
            for span_first, span_end in spans:
                start_row, count = int(rows[span_first]), int(rows[span_end - 1] - rows[span_first]) + 1
                starts.append(each.footer.vectors_start + start_row * row_bytes)
                pieces.append(scratch[used : used + count])
                read.append(rows[span_first:span_end] - start_row + used)
                used += count
            self.directory.read_into(each.name, starts, pieces)
            wanted = _as_slice(np.concatenate(read))
            intact[order[first:end]] = part.checksums(scratch[:used])[wanted] == checksums[first:end]
            out[_as_slice(places[first:end])] = scratch[wanted]
        return intact

    def _part(self, number: int) -> Part:
        with self._lock:
            each = self._by_number.get(number)
        if each is None:
            raise FileGone(str(number))
        return each

    def _forget(self, each: Part, rows: I32) -> None:
        with self._lock:
            self.index.remove_rows(each.number, rows)
        self._notice(f"{self.directory}/{each.name}: {len(rows)} damaged vectors ignored")

    def read_records(self, keys: Keys) -> tuple[pa.Table, I64]:
        """The rows of keys that are stored, and the place in `keys` of each."""
        for _ in range(_ATTEMPTS):
            found = self.find(keys)
            tables, places = [self.format.schema.empty_table()], [np.empty(0, np.int64)]
            try:
                for number in np.unique(found.parts[found.parts >= 0]).tolist():
                    at = np.flatnonzero(found.parts == number)
                    tables.append(self.read_rows(self._part(number), found.rows[at]))
                    places.append(at)
            except FileGone:
                self.refresh()
                continue
            return pa.concat_tables(tables), np.concatenate(places)
        raise OperatorError(f"{self.directory}: its files are removed faster than they are read")

    def read_rows(self, each: Part, rows: I32, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of a part as a table."""
        with self.directory.open(each.name) as file:
            parquet = pq.ParquetFile(file, page_checksum_verification=True)
            groups = [parquet.metadata.row_group(i).num_rows for i in range(parquet.metadata.num_row_groups)]
            lengths = np.array(groups, np.int64)
            ends = np.cumsum(lengths)
            group_of = np.searchsorted(ends, rows, side="right")
            read = np.unique(group_of)
            table = parquet.read_row_groups(read.tolist(), columns=columns, use_threads=False)
            skipped = (ends - lengths)[read] - (np.cumsum(lengths[read]) - lengths[read])  # Rows of groups not read.
            return table.take(pa.array(rows - skipped[np.searchsorted(read, group_of)]))


def _batches(rows: I32, limit: int, *, max_gap: int) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Split ascending rows into spans with small gaps, and those into batches that span `limit` rows at most.

    Yields the first and end place of each batch in `rows`, and of its spans.
    """
    breaks = np.flatnonzero(np.diff(rows) > max_gap + 1) + 1
    spans: list[tuple[int, int]] = []
    used = 0
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(rows)], strict=True):
        start = first
        while start < end:
            room = limit - used
            # Spans are cut where they reach the end of the room.
            stop = start + int(np.searchsorted(rows[start:end], rows[start] + room))
            if stop > start:
                spans.append((start, stop))
                used += int(rows[stop - 1] - rows[start]) + 1
                start = stop
            if start < end or used >= limit:
                yield spans[0][0], spans[-1][1], spans
                spans, used = [], 0
    if spans:
        yield spans[0][0], spans[-1][1], spans


def _as_slice(places: Any) -> Any:
    """The same places as a slice, if they are one after another: copied three times as fast."""
    first, count = int(places[0]), len(places)
    if int(places[-1]) - first == count - 1 and (count < 3 or bool((np.diff(places) == 1).all())):
        return slice(first, first + count)
    return places
