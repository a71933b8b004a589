"""The sum of reading a catalogue: rows read, kept and rejected, and how each product can be found. Prints problems.

Every rejected row, and every product that no search will find, is named on standard error.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lookalike.errors import BadCatalogue, BadSettings
from lookalike.printable import quote
from lookalike.product_rules import CatalogueProduct, has_word
from pipeline.column_mapping import Note
from pipeline.product import RejectedRow, UnusedPhoto, UnusedPhotoReason

# Of each reason so many photos are named, since one wrong option makes all of them missing; `--json` lists them all.
MAX_PHOTOS_NAMED = 20


@dataclass(frozen=True, slots=True)
class MaxRejected:
    """How many rejected rows are put up with: a number, or a percentage of the rows."""

    value: float
    is_percentage: bool

    def allows(self, rejected: int, rows: int) -> bool:
        return rejected * 100 <= self.value * rows if self.is_percentage else rejected <= self.value

    def __str__(self) -> str:
        return f"{self.value:g}{'%' if self.is_percentage else ''}"


def parse_max_rejected(text: str, option: str = "--max-rejected") -> MaxRejected | None:
    """Parse "1%" or "100"; empty: no bound. Raises BadSettings."""
    if not text:
        return None
    match = re.fullmatch(r"(\d+)|(\d+(?:\.\d+)?) ?%", text.strip())
    if match is None or float(match[2] or 0) > 100:
        raise BadSettings(f"{option} {text}: expected a number of rows, or a percentage such as 1%")
    return MaxRejected(float(match[1] or match[2]), match[1] is None)


@dataclass(slots=True)
class CatalogueReport:
    """Counts what was read. rows = products + rejected + filtered + merged + over_limit.

    strict: raises BadCatalogue at the first rejected row or unusable photo.
    """

    strict: bool = False
    max_rejected: MaxRejected | None = None
    rows: int = 0
    products: int = 0
    filtered: int = 0  # Rows that --where leaves out.
    merged: int = 0  # Rows that became part of the product of another row of their group.
    over_limit: int = 0  # Products that --limit leaves out.
    photos: int = 0  # Products with a photo that can be used.
    texts: int = 0  # Products with a word in their title or description.
    reasons: Counter[str] = field(default_factory=Counter)
    rejects: list[RejectedRow] = field(default_factory=list)
    unused_photos: list[UnusedPhoto] = field(default_factory=list)
    unused_reasons: Counter[str] = field(default_factory=Counter)
    unfindable: list[str] = field(default_factory=list)  # The ids of products that are in no space.
    notices: list[str] = field(default_factory=list)

    def reject(self, row: RejectedRow) -> None:
        """Print and count a rejected row."""
        if self.strict:
            raise BadCatalogue(str(row))
        self.rejects.append(row)
        self.reasons[str(row.reason)] += 1
        print(row, file=sys.stderr)

    def note_unused_photo(self, photo: UnusedPhoto) -> None:
        """Count a photo that cannot be used, and print the first ones. One by URL is no fault, and only counted."""
        self.unused_photos.append(photo)
        self.unused_reasons[str(photo.reason)] += 1
        if photo.reason is UnusedPhotoReason.NOT_FETCHED:
            return
        if self.strict:
            raise BadCatalogue(str(photo))
        if self.unused_reasons[str(photo.reason)] <= MAX_PHOTOS_NAMED:
            print(photo, file=sys.stderr)

    def count_product(self, product: CatalogueProduct, *, has_photo: bool, file: str, line: int) -> None:
        """Count a product that is kept, and name one that has neither a photo nor a word."""
        has_text = has_word(product.title) or has_word(product.description)
        self.products += 1
        self.photos += has_photo
        self.texts += has_text
        if not has_photo and not has_text:
            self.note_unfindable(product.id, "no usable photo, and no word in title or description", file, line)

    def note_unfindable(self, product_id: str, reason: str, file: str, line: int) -> None:
        """Print and count a product that is in no space."""
        self.unfindable.append(product_id)
        print(f"{file}:{line}: in no space: {reason} (product {quote(product_id)})", file=sys.stderr)

    def notice(self, text: str) -> None:
        """Print something that was assumed or changed."""
        self.notices.append(text)
        print(f"notice: {text}", file=sys.stderr)

    def notice_assumptions(self, notes: Mapping[Note, int]) -> None:
        """Print what a mapping of columns had to assume or leave out."""
        for note in (Note.TAG_WITH_COMMA, Note.TAG_LEFT_OUT, Note.NO_CATEGORY):
            if count := notes.get(note, 0):
                self.notice(f"{count:,} rows: {note}")
        if notes.get(Note.DECIMAL_COMMA, 0) and (count := notes.get(Note.AMBIGUOUS_PRICE, 0)):
            self.notice(f"{count:,} rows: {Note.AMBIGUOUS_PRICE}")

    def check_rejected(self) -> None:
        """Raise BadCatalogue if more rows are rejected than `max_rejected` allows."""
        rows = self.rows - self.filtered
        if self.max_rejected is not None and not self.max_rejected.allows(self.rejected, rows):
            raise BadCatalogue(
                f"{self.rejected:,} of {rows:,} rows rejected, more than --max-rejected {self.max_rejected}: "
                f"nothing is published ({_counts(self.reasons)})"
            )

    @property
    def rejected(self) -> int:
        return len(self.rejects)

    def as_json(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "products": self.products,
            "rejected": self.rejected,
            "reasons": dict(sorted(self.reasons.items())),
            "filtered": self.filtered,
            "merged": self.merged,
            "over_limit": self.over_limit,
            "photos": self.photos,
            "texts": self.texts,
            "unused_photos": dict(sorted(self.unused_reasons.items())),
            "unfindable": self.unfindable,
            "notices": self.notices,
        }

    def problems_as_json(self) -> dict[str, Any]:
        """Every rejected row, and every photo that cannot be used or is still to be fetched from its URL."""
        return {
            "rejects": [dataclasses.asdict(reject) for reject in self.rejects],
            "photo_problems": [dataclasses.asdict(photo) for photo in self.unused_photos],
        }

    def __str__(self) -> str:
        """Several lines; the first can follow a name and a colon."""
        bad = f"{self.rejected:,} bad rows skipped: {_counts(self.reasons)}" if self.rejected else "no bad rows"
        other = {
            "left out by --where": self.filtered,
            "merged with others of their group": self.merged,
            "left out by --limit": self.over_limit,
        }
        rows = f"{self.rows:,} rows" + "".join(f", {count:,} {what}" for what, count in other.items() if count)
        lines = [f"{self.products:,} products, {bad}", f"  read: {rows}"]
        lines.append(f"  with a photo: {self.photos:,}; with a word in title or description: {self.texts:,}")
        if self.unused_photos:
            lines.append(f"  kept without their photo: {_counts(self.unused_reasons)}")
        if self.unfindable:
            lines.append(f"  in no space, so no search finds them: {len(self.unfindable):,}")
        return "\n".join(lines)


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{count:,} {reason}" for reason, count in counter.most_common())
