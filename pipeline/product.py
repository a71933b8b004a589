"""One product of a catalogue, and every reason for which a row is not one. Pure."""

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

TITLE_CHARS = 1000
CATEGORY_BYTES = 512
SHOP_BYTES = 256
PATH_BYTES = 1024
URL_BYTES = 2048


class Reason(StrEnum):
    """Why a row is skipped; what the counts are kept by."""

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
class Row:
    """A product as the catalogue states it, checked."""

    id: str
    title: str = ""
    description: str = ""
    category: str
    shop: str = ""
    price: float = 0.0  # In units of `currency`; 0: not stated.
    currency: str = ""
    in_stock: bool = True
    image: str = ""  # Relative to the catalogue's directory, with "/" between its parts; empty: no photo.
    url: str = ""
    tags: tuple[str, ...] = ()  # Sorted, each once.
    created_at: int = 0  # Seconds since 1970 in UTC; 0: not stated.
    revision: int = 0  # Of two states of a product the greater one's is the newer; 0: not stated.


FIELDS = tuple(Row.__dataclass_fields__)
REQUIRED = ("id", "category")


@dataclass(frozen=True, slots=True, kw_only=True)
class Reject:
    """A row that is skipped."""

    file: str
    line: int  # The line on which the row begins, 1-based; in Parquet the number of the row.
    id: str  # Empty where the row has none that can be read.
    reason: Reason
    detail: str = ""

    def __str__(self) -> str:
        product = f" (product {shown(self.id)})" if self.id else ""
        return f"{self.file}:{self.line}: {self.reason}{': ' if self.detail else ''}{self.detail}{product}"


class Bad(ValueError):
    """A row is no product."""

    def __init__(self, reason: Reason, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else str(reason))
        self.reason = reason
        self.detail = detail


def parsed(fields: Mapping[str, Any]) -> Row:
    """The product that a row's fields state; fields that are no product's are passed over. Raises Bad."""
    return Row(
        id=_id(fields.get("id")),
        title=_title(fields.get("title")),
        description=_bounded("description", fields.get("description"), MAX_TEXT_BYTES),
        category=_category(fields.get("category")),
        shop=_bounded("shop", fields.get("shop"), SHOP_BYTES),
        price=_price(fields.get("price")),
        currency=_currency(fields.get("currency")),
        in_stock=_in_stock(fields.get("in_stock")),
        image=_image(fields.get("image")),
        url=_bounded("url", fields.get("url"), URL_BYTES),
        tags=_tags(fields.get("tags")),
        created_at=_created_at(fields.get("created_at")),
        revision=_revision(fields.get("revision")),
    )


def id_of(fields: Mapping[str, Any]) -> str:
    """What to call a row that may be bad: its id where it has one that can be read, at most 64 characters."""
    value = fields.get("id")
    return printable(str(value).strip())[:64] if isinstance(value, str | int) and not isinstance(value, bool) else ""


def shown(value: object) -> str:
    """A value from outside as it may stand in a message: quoted, escaped, at most 64 characters."""
    text = printable(value if isinstance(value, str) else str(value))
    return f'"{text[:64]}…"' if len(text) > 64 else f'"{text}"'


def printable(text: str) -> str:
    """Control characters and halves of surrogate pairs written as escapes: messages go to terminals."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)


def _text(name: str, value: object) -> str:
    """Text without space around it; a missing value is empty text."""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Bad(Reason.BAD_TEXT, f"{name} is {shown(value)}, not text")
    text = str(value).strip()
    if "\0" in text or not _is_unicode(text):
        raise Bad(Reason.BAD_TEXT, f"{name} is not UTF-8 text")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounded(name: str, value: object, at_most_bytes: int, reason: Reason = Reason.LONG_FIELD) -> str:
    text = _text(name, value)
    if (size_bytes := len(text.encode())) > at_most_bytes:
        raise Bad(reason, f"{name} has {size_bytes} bytes, {at_most_bytes} are allowed")
    return text


def _id(value: object) -> str:
    text = _bounded("id", value, MAX_ID_BYTES, Reason.LONG_ID)
    if not text:
        raise Bad(Reason.MISSING_ID)
    return text


def _title(value: object) -> str:
    text = _text("title", value)
    if len(text) > TITLE_CHARS:
        raise Bad(Reason.LONG_TITLE, f"{len(text)} characters, {TITLE_CHARS} are allowed")
    return text


def _category(value: object) -> str:
    text = _bounded("category", value, CATEGORY_BYTES)
    if not text:
        raise Bad(Reason.MISSING_CATEGORY)
    if not all(part.strip() for part in text.split("/")):
        raise Bad(Reason.BAD_CATEGORY, f'{shown(text)} is no path like "fashion/shoes/sneakers"')
    return text


def _price(value: object) -> float:
    if value is None or value == "":
        return 0.0
    try:
        if isinstance(value, bool):
            raise ValueError(value)
        # Not every text that Python takes for a number is one in a catalogue: "1_000".
        price = math.nan if isinstance(value, str) and "_" in value else float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError, OverflowError):
        price = math.nan
    if not 0 <= price < math.inf:
        raise Bad(Reason.BAD_PRICE, f"{shown(value)} is no number from 0 up")
    return price + 0.0  # -0 is 0.


def _currency(value: object) -> str:
    text = _text("currency", value)
    if text and not re.fullmatch("[A-Z]{3}", text):
        raise Bad(Reason.BAD_CURRENCY, f"{shown(text)} is no ISO 4217 code like JPY")
    return text


_STOCK = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False, "": True}


def _in_stock(value: object) -> bool:
    word = "" if value is None else str(value).strip().lower()
    if word not in _STOCK:
        raise Bad(Reason.BAD_STOCK, f"{shown(value)} is neither true nor false")
    return _STOCK[word]


def _tags(value: object) -> tuple[str, ...]:
    """A list of texts, or one text with "|" between them."""
    given = value if isinstance(value, list | tuple) else tags.split_tags(_text("tags", value))
    texts = [_text("a tag", tag) for tag in given]
    try:
        return tuple(tags.normalise_tags(texts))
    except ValueError as error:
        raise Bad(Reason.BAD_TAGS, str(error)) from None


def _created_at(value: object) -> int:
    try:
        return 0 if value is None or value == "" else unix_s(value)
    except (ValueError, OverflowError) as error:
        raise Bad(Reason.BAD_CREATED_AT, f"{shown(value)}: {error}") from None


def _revision(value: object) -> int:
    if value is None or value == "":
        return 0
    text = str(value)
    # Twenty digits hold all that 64 bits do.
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        raise Bad(Reason.BAD_REVISION, f"{shown(value)} is no whole number in 64 bits")
    return int(text)


def _image(value: object) -> str:
    """A relative path that stays below where it starts, whatever is on the disk."""
    text = _bounded("image", value, PATH_BYTES)
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text or (text and not path.parts):
        raise Bad(Reason.BAD_IMAGE_PATH, f"{shown(text)} is no path inside the catalogue's directory")
    return text
