"""One product of a catalogue: how a row is validated, and the reasons for rejecting it. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import PurePosixPath
from typing import Any

from index.storage import tags
from lookalike.limits import MAX_ID_BYTES, MAX_TEXT_BYTES
from lookalike.timestamps import unix_s

MAX_TITLE_CHARS = 1000
MAX_CATEGORY_BYTES = 512
MAX_SHOP_BYTES = 256
MAX_PATH_BYTES = 1024
MAX_URL_BYTES = 2048


class RejectReason(StrEnum):
    """Why a row is rejected. Reports count rejected rows by this."""

    BROKEN_ROW = "broken row"
    MISSING_ID = "missing id"
    LONG_ID = "over-long id"
    DUPLICATE_ID = "duplicate id"
    LONG_TITLE = "over-long title"
    LONG_FIELD = "over-long field"
    BAD_TEXT = "bad text"
    MISSING_CATEGORY = "missing category"
    BAD_CATEGORY = "bad category"
    BAD_PRICE = "bad price"
    BAD_CURRENCY = "bad currency"
    BAD_STOCK = "bad in_stock"
    BAD_TAGS = "bad tags"
    BAD_CREATED_AT = "bad created_at"
    BAD_REVISION = "bad revision"
    BAD_IMAGE_PATH = "bad image path"
    MISSING_IMAGE = "missing image"
    BROKEN_IMAGE = "broken image"


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueProduct:
    """A product read from a row of a catalogue, with every field validated."""

    id: str
    title: str = ""
    description: str = ""
    category: str
    shop: str = ""
    price: float = 0.0  # In units of `currency`; 0: unknown.
    currency: str = ""
    in_stock: bool = True
    image: str = ""  # Relative to the catalogue's directory, with "/" between its parts; empty: no photo.
    url: str = ""
    tags: tuple[str, ...] = ()  # Sorted, each once.
    created_at: int = 0  # Seconds since 1970 in UTC; 0: unknown.
    revision: int = 0  # Of two versions of a product, the one with the greater revision is newer; 0: unknown.


FIELDS = tuple(CatalogueProduct.__dataclass_fields__)
REQUIRED = ("id", "category")


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


class BadRow(ValueError):
    """A row is not a valid product."""

    def __init__(self, reason: RejectReason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


def parse_product(fields: Mapping[str, Any]) -> CatalogueProduct:
    """Validate the fields of a row and make a product of them; unknown fields are ignored. Raises BadRow."""
    return CatalogueProduct(
        id=_id(fields.get("id")),
        title=_title(fields.get("title")),
        description=_bounded("description", fields.get("description"), MAX_TEXT_BYTES),
        category=_category(fields.get("category")),
        shop=_bounded("shop", fields.get("shop"), MAX_SHOP_BYTES),
        price=_price(fields.get("price")),
        currency=_currency(fields.get("currency")),
        in_stock=_in_stock(fields.get("in_stock")),
        image=_image(fields.get("image")),
        url=_bounded("url", fields.get("url"), MAX_URL_BYTES),
        tags=_tags(fields.get("tags")),
        created_at=_created_at(fields.get("created_at")),
        revision=_revision(fields.get("revision")),
    )


def readable_id(fields: Mapping[str, Any]) -> str:
    """The id of a row that may be invalid, for messages: at most 64 characters, empty if it has none."""
    value = fields.get("id")
    return (
        escape_unprintable(str(value).strip())[:64]
        if isinstance(value, str | int) and not isinstance(value, bool)
        else ""
    )


def quote(value: object) -> str:
    """Quote and escape a value from outside for a message; cut after 64 characters."""
    text = escape_unprintable(value if isinstance(value, str) else str(value))
    return f'"{text[:64]}…"' if len(text) > 64 else f'"{text}"'


def escape_unprintable(text: str) -> str:
    """Write control characters and lone surrogates as escapes: messages go to terminals."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _text(name: str, value: object) -> str:
    """Text without surrounding white space; a missing value gives empty text."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise BadRow(RejectReason.BAD_TEXT, f"{name} is {quote(value)}, not text")
    text = str(value).strip()
    if "\0" in text or not _is_unicode(text):
        raise BadRow(RejectReason.BAD_TEXT, f"{name} is not UTF-8 text")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounded(name: str, value: object, max_bytes: int, reason: RejectReason = RejectReason.LONG_FIELD) -> str:
    text = _text(name, value)
    if (size_bytes := len(text.encode())) > max_bytes:
        raise BadRow(reason, f"{name} has {size_bytes} bytes, at most {max_bytes} are allowed")
    return text


def _id(value: object) -> str:
    text = _bounded("id", value, MAX_ID_BYTES, RejectReason.LONG_ID)
    if not text:
        raise BadRow(RejectReason.MISSING_ID)
    return text


def _title(value: object) -> str:
    text = _text("title", value)
    if len(text) > MAX_TITLE_CHARS:
        raise BadRow(RejectReason.LONG_TITLE, f"{len(text)} characters, at most {MAX_TITLE_CHARS} are allowed")
    return text


def _category(value: object) -> str:
    text = _bounded("category", value, MAX_CATEGORY_BYTES)
    if not text:
        raise BadRow(RejectReason.MISSING_CATEGORY)
    if not all(part.strip() for part in text.split("/")):
        raise BadRow(RejectReason.BAD_CATEGORY, f'{quote(text)} is not a path like "fashion/shoes/sneakers"')
    return text


def _price(value: object) -> float:
    if value is None or value == "":
        return 0.0
    try:
        if isinstance(value, bool):
            raise ValueError(value)
        # Python would accept "1_000" as a number; a catalogue may not.
        price = math.nan if isinstance(value, str) and "_" in value else float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError, OverflowError):
        price = math.nan
    if not 0 <= price < math.inf:
        raise BadRow(RejectReason.BAD_PRICE, f"{quote(value)} is not a number of 0 or more")
    return price + 0.0  # -0 is 0.


def _currency(value: object) -> str:
    text = _text("currency", value)
    if text and not re.fullmatch("[A-Z]{3}", text):
        raise BadRow(RejectReason.BAD_CURRENCY, f"{quote(text)} is not an ISO 4217 code such as JPY")
    return text


_STOCK = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": True}


def _in_stock(value: object) -> bool:
    word = "" if value is None else str(value).strip().lower()
    if word not in _STOCK:
        raise BadRow(RejectReason.BAD_STOCK, f"{quote(value)} is neither true nor false")
    return _STOCK[word]


def _tags(value: object) -> tuple[str, ...]:
    """Tags from a list of texts, or from one text with "|" between them."""
    items = value if isinstance(value, list | tuple) else tags.split_tags(_text("tags", value))
    texts = [_text("a tag", tag) for tag in items]
    try:
        return tuple(tags.normalise_tags(texts))
    except ValueError as error:
        raise BadRow(RejectReason.BAD_TAGS, str(error)) from None


def _created_at(value: object) -> int:
    try:
        return 0 if value is None or value == "" else unix_s(value)
    except (ValueError, OverflowError) as error:
        raise BadRow(RejectReason.BAD_CREATED_AT, f"{quote(value)}: {error}") from None


def _revision(value: object) -> int:
    if value is None or value == "":
        return 0
    text = str(value)
    # The greatest 64-bit integer has twenty digits.
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise BadRow(RejectReason.BAD_REVISION, f"{quote(value)} is not an unsigned 64-bit integer")
    return int(text)


def _image(value: object) -> str:
    """A relative path that cannot leave the catalogue's directory, whatever is on the disk."""
    text = _bounded("image", value, MAX_PATH_BYTES)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text or (text and not path.parts):
        raise BadRow(RejectReason.BAD_IMAGE_PATH, f"{quote(text)} is not a path inside the catalogue's directory")
    return text
