"""What a sync reads: a table or a query, and its cursor. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.sync.cursor import Cursor


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What is read: a table or a query, and its cursor column."""

    table: str = ""  # NAME or SCHEMA.NAME.
    query: str = ""  # Instead of a table. May hold :cursor.
    cursor: str = ""  # Its column; empty: there is none.
    first: Cursor | None = None  # The cursor to begin with; None: everything.

    def __str__(self) -> str:
        return f"the table {self.table}" if self.table else f"the query {' '.join(self.query.split())}"
