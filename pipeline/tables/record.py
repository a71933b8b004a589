"""The rows of a table, and the bounds on one of them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

# A larger row is broken and is not kept in memory. A product is far smaller: a description has at most 64 KiB.
MAX_ROW_CHARS = 1 << 20


class Record(NamedTuple):
    """One row of a table."""

    line: int  # Its first line, 1-based; in Parquet and Excel the number of the row.
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BrokenRecord:
    """A row that cannot be parsed."""

    line: int
    detail: str
