"""Counts the products and rejected rows of a catalogue. Prints each rejected row on standard error."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lookalike.errors import BadCatalogue
from pipeline.product import RejectedRow


@dataclass(slots=True)
class CatalogueReport:
    """Counts of products, and of rejected rows by reason. `strict`: raises BadCatalogue at the first rejected row."""

    strict: bool = False
    products: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejects: list[RejectedRow] = field(default_factory=list)

    def reject(self, row: RejectedRow) -> None:
        """Print and count a rejected row."""
        if self.strict:
            raise BadCatalogue(str(row))
        self.rejects.append(row)
        self.reasons[str(row.reason)] += 1
        print(row, file=sys.stderr)

    @property
    def rejected(self) -> int:
        return len(self.rejects)

    def as_json(self) -> dict[str, Any]:
        return {"products": self.products, "rejected": self.rejected, "reasons": dict(sorted(self.reasons.items()))}

    def __str__(self) -> str:
        if not self.rejected:
            return f"{self.products:,} products, no bad rows"
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        return f"{self.products:,} products, {self.rejected:,} bad rows skipped: {counts}"
