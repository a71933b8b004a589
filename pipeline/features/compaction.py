"""Merges small parts, and drops rows that no longer count. Does disk and network I/O.

Runs beside readers, writers and other compactions, and may be killed at any moment: a part with the rows that count is
written first, names the parts that it replaces, and these are removed an hour later.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from lookalike.errors import BadSettings, OperatorError
from lookalike.vectors import F32
from pipeline.features import part
from pipeline.features.directory import STAGED, FileGone
from pipeline.features.key_index import Keys, Rows
from pipeline.features.parts import Part, Parts

PART_BYTES = 64 << 20  # About the size of the parts that compaction writes, which are in memory meanwhile.
GRACE_S = 3600.0  # A replaced part stays as long, for those who have listed the directory before.
MIN_AGE_S = 7 * 86400.0  # A row that nothing uses stays as long: a product may be on its way.
_MIN_WASTE = 0.25  # Of a part's rows: with fewer that do not count, a large part is not written again.


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionOptions:
    """live: the keys in use; None: all. min_age_s: of the rows that are dropped as unused."""

    live: Keys | None = None
    min_age_s: float = MIN_AGE_S
    grace_s: float = GRACE_S
    part_bytes: int = PART_BYTES

    def __post_init__(self) -> None:
        if self.min_age_s < 0 or self.grace_s < 0:
            raise BadSettings("an age is at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class CompactionReport:
    """What was done."""

    merged_parts: int
    written_parts: int
    superseded_rows: int  # Dropped, since newer ones have their keys.
    unused_rows: int  # Dropped, since their keys are not in use.
    removed_files: int


def compact(parts: Parts, options: CompactionOptions) -> CompactionReport:
    """Compact the parts of a directory. Raises OperatorError if it cannot be read or written."""
    try:
        return _compact(parts, options)
    except FileGone as error:  # After an hour of grace this is a compaction that was asked to wait less.
        raise OperatorError(f"{error}: removed by another compaction meanwhile; run this one again") from error


def _compact(parts: Parts, options: CompactionOptions) -> CompactionReport:
    parts.refresh()
    removed = _remove_files(parts, options)
    counting = _rows_that_count(parts, options)
    merged = written = superseded = unused = 0
    for batch in _batches(parts, counting.rows, options.part_bytes):
        rows = [counting.rows[each.number] for each in batch]
        superseded += sum(counting.superseded[each.number] for each in batch)
        unused += sum(counting.unused[each.number] for each in batch)
        replaced = {each.name for each in batch}
        inherited = {name for each in batch for name in each.footer.replaces}
        present = {each.name for each in parts.all()}
        tables = [_read(parts, each, kept) for each, kept in zip(batch, rows, strict=True) if len(kept)]
        table = pa.concat_tables(tables or [parts.format.schema.empty_table()]).combine_chunks()
        parts.append(table, replaces=replaced | (inherited & present))
        merged += len(batch)
        written += 1
    parts.refresh()
    return CompactionReport(
        merged_parts=merged,
        written_parts=written,
        superseded_rows=superseded,
        unused_rows=unused,
        removed_files=removed,
    )


def _remove_files(parts: Parts, options: CompactionOptions) -> int:
    """Remove replaced parts, and files that a killed writer left, after their time of grace."""
    before_us = parts.clock() - round(options.grace_s * 1e6)
    names = {each.name for each in parts.all()}
    old = {
        name
        for each in parts.all()
        if each.footer.created_us <= before_us
        for name in each.footer.replaces
        if name in names
    }
    # An empty part says only what it replaces: it goes after all of it is gone.
    old |= {
        each.name
        for each in parts.all()
        if not each.footer.rows and each.footer.created_us <= before_us and not names & each.footer.replaces
    }
    left = parts.directory.files()
    old |= {
        name
        for name, status in left.items()
        if name.startswith(STAGED) and 0 < status.modified_s <= _now_s() - options.grace_s
    }
    for name in sorted(old):
        parts.directory.remove(name)
    parts.refresh()
    return len(old)


def _now_s() -> float:
    return time.time_ns() / 1e9  # Compared with times of files.


@dataclass(frozen=True, slots=True, kw_only=True)
class _Counting:
    """By the number of a part: the rows that count, ascending, and how many others there are."""

    rows: dict[int, npt.NDArray[np.int32]]
    superseded: dict[int, int]
    unused: dict[int, int]


def _rows_that_count(parts: Parts, options: CompactionOptions) -> _Counting:
    newest: Rows = parts.index.rows()
    needed = np.ones(len(newest), dtype=bool)
    if options.live is not None:
        before_us = parts.clock() - round(options.min_age_s * 1e6)
        needed = np.isin(newest.keys, options.live) | (newest.written_us > before_us)
    order = np.argsort(newest.parts, kind="stable")
    numbers, starts = np.unique(newest.parts[order], return_index=True)
    ends = [*starts.tolist(), len(order)][1:]
    rows, superseded, unused = {}, {}, {}
    for each in parts.current():
        rows[each.number], superseded[each.number], unused[each.number] = np.empty(0, np.int32), each.footer.rows, 0
    for number, start, end in zip(numbers.tolist(), starts.tolist(), ends, strict=True):
        at = order[start:end]
        rows[number] = np.sort(newest.rows[at[needed[at]]])
        superseded[number] -= len(at)
        unused[number] = len(at) - len(rows[number])
    return _Counting(rows=rows, superseded=superseded, unused=unused)


def _batches(parts: Parts, counting: dict[int, npt.NDArray[np.int32]], part_bytes: int) -> Iterator[Sequence[Part]]:
    """The parts to merge: small ones and those with much waste, together about part_bytes, in order of their names."""
    batch: list[Part] = []
    batch_bytes = 0
    for each in parts.current():
        rows = each.footer.rows
        kept_bytes = round(each.bytes * len(counting[each.number]) / rows) if rows else 0
        wasteful = rows > 0 and len(counting[each.number]) <= (1 - _MIN_WASTE) * rows
        if each.bytes >= part_bytes // 2 and not wasteful:
            continue
        batch.append(each)
        batch_bytes += kept_bytes
        if batch_bytes >= part_bytes:
            yield batch
            batch, batch_bytes = [], 0
    wasted = any(len(counting[each.number]) < each.footer.rows for each in batch)
    if len(batch) > 1 or wasted:
        yield batch


def _read(parts: Parts, each: Part, rows: npt.NDArray[np.int32]) -> pa.Table:
    """Rows of a part, as they are; damaged vectors are left out."""
    if not parts.format.dim:
        return parts.read_rows(each, rows)
    names = ("key", "written", "checksum", "product")
    table = parts.read_rows(each, rows, columns=names)
    vectors: F32 = np.empty((len(rows), parts.format.dim), np.float32)
    intact = parts.read_vectors_of(each, rows, table["checksum"].to_numpy(), vectors)
    if not intact.all():
        table, vectors = table.filter(pa.array(intact)), vectors[intact]
    return part.vector_table(
        parts.format,
        keys=b"".join(table["key"].to_pylist()),
        written_us=table["written"].cast(pa.int64()).to_numpy(),
        products=table["product"].combine_chunks(),
        vectors=vectors,
        checksums=table["checksum"].to_numpy(),
    )
