"""What became of the rows: the good ones counted, the bad ones told, one line each, and counted by reason."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from lookalike.errors import BadCatalogue
from pipeline.product import Reject


@dataclass(slots=True)
class Report:
    """Tells of every bad row on standard error; `strict`: the first one is BadCatalogue."""

    strict: bool = False
    products: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    rejects: list[Reject] = field(default_factory=list)

    def reject(self, reject: Reject) -> None:
        if self.strict:
            raise BadCatalogue(str(reject))
        self.rejects.append(reject)
        self.reasons[str(reject.reason)] += 1
        print(reject, file=sys.stderr)

    @property
    def rejected(self) -> int:
        return len(self.rejects)

    def as_json(self) -> dict[str, Any]:
        return {"products": self.products, "rejected": self.rejected, "reasons": dict(sorted(self.reasons.items()))}

    def __str__(self) -> str:
        if not self.rejected:
            return f"{self.products:,} products, no bad row"
        counts = ", ".join(f"{count:,} {reason}" for reason, count in self.reasons.most_common())
        return f"{self.products:,} products, {self.rejected:,} bad rows skipped: {counts}"
