"""Where the newest row of each key is: sorted arrays, 36 bytes a row. Pure.

A few sorted segments, each at least twice as long as the next: a row that is added is merged log(n) times at most.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.vectors import I64

Keys = npt.NDArray[np.bytes_]  # (n,) of 16 bytes each.
KEY_BYTES = 16


def keys_of(digests: Sequence[str]) -> Keys:
    """(n,) keys of digests of 32 hexadecimal digits. Raises ValueError for others."""
    data = bytes.fromhex("".join(digests))
    if len(data) != KEY_BYTES * len(digests):
        raise ValueError("a key has 32 hexadecimal digits")
    return np.frombuffer(data, f"S{KEY_BYTES}")


def digests_of(keys: Keys) -> list[str]:
    """The digests of keys, in hexadecimal digits."""
    digits = keys.tobytes().hex()
    return [digits[start : start + 2 * KEY_BYTES] for start in range(0, len(digits), 2 * KEY_BYTES)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """Rows of parts: all arrays (n,)."""

    keys: Keys
    written_us: I64
    parts: npt.NDArray[np.int32]  # Number of the part; -1: there is no such row.
    rows: npt.NDArray[np.int32]  # Row in the part.
    checksums: npt.NDArray[np.uint32]

    def __len__(self) -> int:
        return len(self.keys)

    def in_part(self, number: int) -> Rows:
        """The same rows of another part."""
        return replace(self, parts=np.full(len(self), number, np.int32))

    def take(self, selected: npt.NDArray[Any]) -> Rows:
        return Rows(**{field.name: getattr(self, field.name)[selected] for field in fields(self)})


def concatenate(rows: Sequence[Rows]) -> Rows:
    return Rows(**{field.name: np.concatenate([getattr(each, field.name) for each in rows]) for field in fields(Rows)})


def newest(rows: Rows) -> Rows:
    """The newest row of each key, sorted by key; of rows written at the same time that of the part numbered last."""
    order = np.lexsort((rows.rows, rows.parts, rows.written_us))
    order = order[np.argsort(rows.keys[order], kind="stable")]
    keys = rows.keys[order]
    is_last = np.ones(len(keys), dtype=bool)
    is_last[:-1] = keys[1:] != keys[:-1]
    return rows.take(order[is_last])


class KeyIndex:
    """The newest row of each key."""

    def __init__(self) -> None:
        self._segments: list[Rows] = []

    def add(self, rows: Rows) -> None:
        if not len(rows):
            return
        segments = [*self._segments, newest(rows)]
        while len(segments) > 1 and 2 * len(segments[-1]) > len(segments[-2]):
            last = segments.pop()
            segments[-1] = newest(concatenate([segments[-1], last]))
        self._segments = segments

    def remove_parts(self, parts: Sequence[int]) -> None:
        """Forget the rows of parts. An older row of the same key in another part may stay forgotten."""
        kept = [segment.take(~np.isin(segment.parts, parts)) for segment in self._segments]
        self._segments = [segment for segment in kept if len(segment)]

    def remove_rows(self, part: int, rows: npt.NDArray[np.int32]) -> None:
        """Forget rows of a part, as `remove_parts` does."""
        self._segments = [
            segment.take(~((segment.parts == part) & np.isin(segment.rows, rows))) for segment in self._segments
        ]

    def find(self, keys: Keys) -> Rows:
        """The newest row of each key, in their order; part -1 where there is none."""
        count = len(keys)
        written = np.full(count, np.iinfo(np.int64).min)
        parts, rows = np.full(count, -1, np.int32), np.full(count, -1, np.int32)
        checksums = np.zeros(count, np.uint32)
        for segment in self._segments:
            if not len(segment):
                continue
            at = np.minimum(np.searchsorted(segment.keys, keys), len(segment) - 1)
            newer = (segment.keys[at] == keys) & ((segment.written_us[at] > written) | (parts < 0))
            newer |= (segment.keys[at] == keys) & (segment.written_us[at] == written) & (segment.parts[at] > parts)
            at = at[newer]
            written[newer], parts[newer] = segment.written_us[at], segment.parts[at]
            rows[newer], checksums[newer] = segment.rows[at], segment.checksums[at]
        return Rows(keys=keys, written_us=written, parts=parts, rows=rows, checksums=checksums)

    def rows(self) -> Rows:
        """The newest row of every key, sorted by key."""
        if not self._segments:
            empty = np.empty(0, np.int32)
            return Rows(
                keys=np.empty(0, f"S{KEY_BYTES}"),
                written_us=np.empty(0, np.int64),
                parts=empty,
                rows=empty,
                checksums=np.empty(0, np.uint32),
            )
        if len(self._segments) > 1:
            self._segments = [newest(concatenate(self._segments))]
        return self._segments[0]

    def __len__(self) -> int:
        return len(self.rows())
