"""A row of a catalogue as a product, or the report of why it is none. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lookalike.printable import escape_unprintable, quote
from lookalike.product_rules import CatalogueProduct, RejectReason, check_revision, parse_product


@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedRow:
    """A row that is skipped because it is not a valid product."""

    file: str
    line: int  # The line on which the row begins, 1-based; in Parquet the number of the row.
    id: str  # Empty if the row has no readable id.
    reason: RejectReason
    detail: str = ""

    def __str__(self) -> str:
        product = f" (product {quote(self.id)})" if self.id else ""
        return f"{self.file}:{self.line}: {self.reason}{': ' if self.detail else ''}{self.detail}{product}"


def parse_row(
    fields: Mapping[str, Any], notices: list[str] | None = None, *, max_revision: int = 0
) -> CatalogueProduct:
    """As `parse_product`, but for how files write ids: without white space around one, and 17.0 for 17.

    max_revision: the greatest that is allowed; 0: any is. Raises BadField.
    """
    product = parse_product(_with_plain_id(fields), notices)
    check_revision(product.revision, max_revision)
    return product


def plain_id(value: object) -> object:
    """An id as files write it: without white space around it, and 17 for 17.0."""
    if isinstance(value, str):
        return value.strip()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else value


def _with_plain_id(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    product_id = fields.get("id")
    stripped = plain_id(product_id)
    return fields if stripped == product_id and isinstance(product_id, str) else {**fields, "id": stripped}


def readable_id(fields: Mapping[str, Any]) -> str:
    """The id of a row that may be invalid, for messages: at most 64 characters, empty if it has none."""
    value = fields.get("id")
    return (
        escape_unprintable(str(value).strip())[:64]
        if isinstance(value, str | int) and not isinstance(value, bool)
        else ""
    )


class UnusedPhotoReason(StrEnum):
    """Why a product is kept without its photo. Reports count products by this."""

    MISSING = "missing photo"
    BROKEN = "broken photo"
    TOO_LARGE = "too large a photo"
    BAD_PATH = "bad photo path"
    NOT_FETCHED = "photo by URL, not fetched"


@dataclass(frozen=True, slots=True, kw_only=True)
class UnusedPhoto:
    """A photo that cannot be used. Its product is kept, and found by its words."""

    file: str
    line: int
    id: str
    reason: UnusedPhotoReason
    detail: str = ""

    def __str__(self) -> str:
        detail = f"{': ' if self.detail else ''}{self.detail}"
        return f"{self.file}:{self.line}: {self.reason}{detail} (product {quote(self.id)} is kept without it)"


class PhotoError(Exception):
    """A photo cannot be used: the reason, and its details for a person."""

    def __init__(self, reason: UnusedPhotoReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
