"""The rules for a product, for files and live calls alike: each field is normalised, or refused with a reason. Pure.

White space around a text and invisible characters are removed, except in an id: an id is either as it is stored, or
refused.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from pathlib import PurePosixPath
from typing import Any, Final

from lookalike.limits import MAX_ID_BYTES, MAX_TEXT_BYTES
from lookalike.printable import quote
from lookalike.timestamps import unix_s

MAX_TITLE_CHARS: Final = 1000
MAX_CATEGORY_BYTES: Final = 512
MAX_SHOP_BYTES: Final = 256
MAX_PATH_BYTES: Final = 1024
MAX_URL_BYTES: Final = 2048
MAX_TAGS: Final = 32
MAX_TAG_BYTES: Final = 64
_REPEATED_VALUES: Final = 1 << 15  # A million products have a few thousand categories, shops and sets of tags.
# The letters of Unicode's categories Cc and Cs.
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_OR_SURROGATE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
# Soft hyphen and zero-width spaces: nobody sees them, but a label with one is not equal to the label without. Joiners
# (U+200C, U+200D) stay, of which emoji and some scripts are made.
_INVISIBLE: Final = re.compile(r"[\u00ad\u200b\u2060\ufeff]")
_PHOTO_URLS: Final = ("http://", "https://", "s3://", "gs://")
TAG_SEPARATOR: Final = "|"  # Between tags in one text, as in CSV.
# How many there are in a second; none: revisions are no times, and any number is allowed.
_REVISIONS_PER_S: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "none": 0}
REVISION_UNITS: Final = tuple(_REVISIONS_PER_S)
DEFAULT_REVISION_UNIT: Final = "ms"
_MAX_AHEAD_S: Final = 86_400  # Clocks differ by less, and the units of revisions by more.


class RejectReason(StrEnum):
    """Why a product is rejected. Reports count rejected rows by this."""

    BROKEN_ROW = "broken row"
    MISSING_ID = "missing id"
    BAD_ID = "bad id"
    DUPLICATE_ID = "duplicate id"
    LONG_FIELD = "over-long field"
    BAD_TEXT = "bad text"
    MISSING_CATEGORY = "missing category"
    BAD_CATEGORY = "bad category"
    BAD_PRICE = "bad price"
    BAD_CURRENCY = "bad currency"
    BAD_STOCK = "bad in_stock"
    BAD_TAGS = "bad tags"
    BAD_TIME = "bad time"
    BAD_REVISION = "bad revision"
    BAD_CURSOR = "bad cursor"
    BAD_IMAGE = "bad image"
    MISSING_IMAGE = "missing image"
    BROKEN_IMAGE = "broken image"


class BadField(ValueError):
    """A field is not that of a valid product."""

    def __init__(self, field: str, reason: RejectReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.field = field
        self.reason = reason
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueProduct:
    """A product with every field normalised and within its bounds."""

    id: str
    category: str
    title: str = ""
    description: str = ""
    shop: str = ""
    price: float | None = None  # In units of `currency`; None: unknown, which passes neither bound of a price filter.
    currency: str = ""
    in_stock: bool = True
    image: str = (
        ""  # A path relative to the catalogue's directory, with "/", or a URL of http(s), s3 or gs; empty: no photo.
    )
    url: str = ""
    tags: tuple[str, ...] = ()  # Sorted, each once.
    created_at: int = 0  # Seconds since 1970 in UTC; 0: unknown.
    expires_at: int = 0  # Seconds since 1970 in UTC; 0: never.
    revision: int = 0  # Of two versions of a product, the one with the greater revision is newer; 0: unknown.


FIELDS = tuple(CatalogueProduct.__dataclass_fields__)
REQUIRED = ("id", "category")


def parse_product(fields: Mapping[str, Any], notices: list[str] | None = None) -> CatalogueProduct:
    """Normalise the fields of a product; unknown fields are ignored. Raises BadField for the first that is wrong.

    notices: is extended by what was changed in a way that its owner should know of, such as a text that was cut.
    """
    notices = [] if notices is None else notices
    values = {}
    for name in FIELDS:
        # Most fields of most products are not given, which a million rows make worth asking first.
        if (value := fields.get(name)) is not None or name in REQUIRED:
            values[name] = _RULES[name](value, notices)
    return CatalogueProduct(**values)


def parse_field(name: str, value: object, notices: list[str]) -> Any:
    """Normalise the value of one field of `FIELDS`; None is the value of a field that is not given. Raises BadField."""
    return _RULES[name](value, notices)


def max_revision(unit: str, now_s: float) -> int:
    """The greatest revision that a product may have: a day ahead of now, in one of REVISION_UNITS; 0: any may be.

    A greater one, such as a time in nanoseconds among milliseconds, would win over every later change.
    """
    return int((now_s + _MAX_AHEAD_S) * _REVISIONS_PER_S[unit])


def revision_at(unit: str, now_s: float) -> int:
    """The time in one of REVISION_UNITS, as the revision of a change made now; 0: revisions are no times."""
    return int(now_s * _REVISIONS_PER_S[unit])


def check_revision(revision: int, greatest: int) -> None:
    """Raises BadField for a revision above `max_revision`."""
    if 0 < greatest < revision:
        detail = f"{revision} is more than a day ahead of now ({greatest}), in the unit that revisions are said to have"
        raise BadField("revision", RejectReason.BAD_REVISION, detail)


def normalise_category(path: str) -> str:
    """A category path in its one form: composed (NFC), without outer slashes and white space around its parts."""
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", path))
    return "/".join(part.strip() for part in text.strip(" \t\r\n/").split("/"))


def normalise_label(text: str) -> str:
    """A tag or a shop in its one form: composed (NFC), without white space around it and invisible characters."""
    return unicodedata.normalize("NFC", _INVISIBLE.sub("", text)).strip()


def is_photo_url(image: str) -> bool:
    """Whether a photo is stated by its URL, and not by the path of its file."""
    return image.lower().startswith(_PHOTO_URLS)


def split_tags(text: str) -> list[str]:
    """Split tags that are written as one text: "colour:red|women". Empty text has no tags."""
    return text.split(TAG_SEPARATOR) if text.strip() else []


def normalise_tags(tags: Iterable[str]) -> list[str]:
    """Normalise, deduplicate and sort tags. Raises ValueError with the limit that they break."""
    normal = sorted({normalise_label(tag) for tag in tags})
    if "" in normal:
        raise ValueError("an empty tag")
    if (longest := max((len(tag.encode()) for tag in normal), default=0)) > MAX_TAG_BYTES:
        raise ValueError(f"a tag of {longest} bytes, {MAX_TAG_BYTES} are allowed")
    if len(normal) > MAX_TAGS:
        raise ValueError(f"{len(normal)} tags, {MAX_TAGS} are allowed")
    return normal


def has_word(text: str) -> bool:
    """Whether a text has a letter or a digit of any script: without one it says nothing that a text search finds."""
    return any(letter.isalnum() for letter in text)


def embedded_texts(title: str, description: str) -> list[str]:
    """The texts that a product's text vector may be made of: that of the first in which the encoder knows a word."""
    return [text for text in (title, description) if has_word(text)]


def _text(field: str, value: object) -> str:
    """Text without surrounding white space and invisible characters; a missing value gives empty text."""
    if isinstance(value, str):
        text = (value if value.isascii() else _INVISIBLE.sub("", value)).strip()
    elif value is None:
        return ""
    elif isinstance(value, int) and not isinstance(value, bool):
        text = str(value)
    else:
        raise BadField(field, RejectReason.BAD_TEXT, f"{field} is {quote(value)}, not text")
    if "\0" in text or not (text.isascii() or _is_unicode(text)):
        raise BadField(field, RejectReason.BAD_TEXT, f"{field} is not UTF-8 text, or has a NUL")
    return text


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _bounded(field: str, value: object, max_bytes: int) -> str:
    text = _text(field, value)
    if len(text) * 4 > max_bytes and (size_bytes := len(text.encode())) > max_bytes:
        detail = f"{field} has {size_bytes} bytes, at most {max_bytes} are allowed"
        raise BadField(field, RejectReason.LONG_FIELD, detail)
    return text


def _id(value: object) -> str:
    text = "" if value is None else value if isinstance(value, str) else _text("id", value)
    if not text.strip():
        raise BadField("id", RejectReason.MISSING_ID, "the product has no id")
    if text != text.strip() or _CONTROL_OR_SURROGATE.search(text):
        detail = f"{quote(text)} has a control character, or white space around it"
        raise BadField("id", RejectReason.BAD_ID, detail)
    if (size_bytes := len(text.encode())) > MAX_ID_BYTES:
        raise BadField("id", RejectReason.BAD_ID, f"the id has {size_bytes} bytes, at most {MAX_ID_BYTES} are allowed")
    return text


def _title(field: str, value: object, notices: list[str]) -> str:
    text = _text(field, value)
    if len(text) > MAX_TITLE_CHARS:
        notices.append(f"title: cut from {len(text)} to {MAX_TITLE_CHARS} characters")
        return text[:MAX_TITLE_CHARS].rstrip()
    return text


def _description(field: str, value: object, notices: list[str]) -> str:
    text = _text(field, value)
    if len(text) * 4 > MAX_TEXT_BYTES and (size_bytes := len(encoded := text.encode())) > MAX_TEXT_BYTES:
        notices.append(f"description: cut from {size_bytes} to {MAX_TEXT_BYTES} bytes")
        return encoded[:MAX_TEXT_BYTES].decode(errors="ignore").rstrip()
    return text


def _url(field: str, value: object, notices: list[str]) -> str:
    text = _text(field, value)
    if len(text) * 4 > MAX_URL_BYTES and (size_bytes := len(text.encode())) > MAX_URL_BYTES:  # Half a URL is none.
        notices.append(f"url: left out, it has {size_bytes} bytes and at most {MAX_URL_BYTES} are allowed")
        return ""
    return text


def _category(value: object) -> str:
    path = normalise_category(_text("category", value))
    if not path:
        raise BadField("category", RejectReason.MISSING_CATEGORY, "the product has no category")
    if not all(path.split("/")) or _CONTROL.search(path):
        detail = f'{quote(path)} is not a path like "fashion/shoes/sneakers"'
        raise BadField("category", RejectReason.BAD_CATEGORY, detail)
    return _bounded("category", path, MAX_CATEGORY_BYTES)


def _shop(value: object) -> str:
    return _bounded("shop", normalise_label(_text("shop", value)), MAX_SHOP_BYTES)


def _price(value: object) -> float | None:
    if value is None or value == "":
        return None
    try:
        if isinstance(value, bool):
            raise ValueError(value)
        # Python would accept "1_000" as a number; a catalogue may not.
        price = math.nan if isinstance(value, str) and "_" in value else float(value)  # type: ignore[arg-type]  # tried
    except (TypeError, ValueError, OverflowError):
        price = math.nan
    if not 0 <= price < math.inf:
        raise BadField("price", RejectReason.BAD_PRICE, f"{quote(value)} is not a number of 0 or more")
    return price + 0.0  # -0 is 0.


def _currency(value: object) -> str:
    text = _text("currency", value)
    if text and not re.fullmatch("[A-Z]{3}", text):
        detail = f"{quote(text)} is not an ISO 4217 code such as JPY"
        raise BadField("currency", RejectReason.BAD_CURRENCY, detail)
    return text


_IN_STOCK = {
    *("", "true", "yes", "y", "t", "on", "in stock", "instock", "available", "limited availability"),
    *("在庫あり", "在庫有り", "あり", "有", "○", "〇", "◯", "残りわずか"),
}
# Goods that are to come are not in stock yet, though they can be ordered.
_OUT_OF_STOCK = {
    *("false", "no", "n", "f", "off", "out of stock", "outofstock", "sold out", "soldout", "unavailable"),
    *("not available", "discontinued", "preorder", "pre order", "backorder", "back order", "on backorder"),
    *(
        "onbackorder",
        "available for order",
        "在庫なし",
        "在庫無し",
        "なし",
        "無",
        "×",
        "✕",
        "売り切れ",
        "売切れ",
        "売切",
    ),
    *("完売", "品切れ", "欠品", "予約", "予約受付中", "取り寄せ", "お取り寄せ"),
}


def _in_stock(value: object) -> bool:
    """Whether it can be had now, from true or false, a word of the trade, or the quantity; not given: true."""
    if isinstance(value, bool):
        return value
    text = "" if value is None else unicodedata.normalize("NFKC", str(value)).strip().lower()
    word = re.sub(r"[\s_]+|(?<=\w)-", " ", text.rpartition("/")[2])  # https://schema.org/InStock
    if word in _IN_STOCK or word in _OUT_OF_STOCK:
        return word in _IN_STOCK
    try:
        quantity = math.nan if "_" in text else float(text.replace(",", ""))
    except ValueError:
        quantity = math.nan
    if not math.isfinite(quantity):
        detail = f"{quote(value)} is neither true nor false, nor a quantity"
        raise BadField("in_stock", RejectReason.BAD_STOCK, detail)
    return quantity > 0


def _image(value: object) -> str:
    """A relative path that cannot leave the catalogue's directory, whatever is on the disk; or a URL of a photo."""
    text = unicodedata.normalize("NFC", _bounded("image", value, MAX_PATH_BYTES))
    if is_photo_url(text) and re.match(r"[a-z0-9]+://[^\s/]", text, re.IGNORECASE):
        return text
    path = PurePosixPath(text)
    if path.is_absolute() or ".." in path.parts or "\\" in text or ":" in text or (text and not path.parts):
        detail = f"{quote(text)} is neither a path inside the catalogue's directory nor a URL of http(s), s3 or gs"
        raise BadField("image", RejectReason.BAD_IMAGE, detail)
    return text


def _tags(value: object) -> tuple[str, ...]:
    """Tags from a list of texts, or from one text with "|" between them."""
    items = value if isinstance(value, Sequence) and not isinstance(value, str) else split_tags(_text("tags", value))
    tags = tuple(items)
    return _normal_tags(tags) if set(map(type, tags)) <= {str} else _normal_tags.__wrapped__(tags)


@lru_cache(_REPEATED_VALUES)
def _normal_tags(tags: tuple[object, ...]) -> tuple[str, ...]:
    texts = [_text("tags", tag) for tag in tags]
    try:
        return tuple(normalise_tags(texts))
    except ValueError as error:
        raise BadField("tags", RejectReason.BAD_TAGS, str(error)) from None


def _time(field: str) -> Callable[[object], int]:
    def parse(value: object) -> int:
        try:
            return 0 if value is None or value == "" else unix_s(value)
        except (ValueError, OverflowError) as error:
            raise BadField(field, RejectReason.BAD_TIME, f"{field} {quote(value)}: {error}") from None

    return parse


def _revision(value: object) -> int:
    if value is None or value == "":
        return 0
    text = str(value)
    # The greatest 64-bit integer has twenty digits.
    if isinstance(value, bool) or not (text.isascii() and text.isdigit() and len(text) <= 20 and int(text) < 1 << 64):
        detail = f"{quote(value)} is not an unsigned 64-bit integer"
        raise BadField("revision", RejectReason.BAD_REVISION, detail)
    return int(text)


_Rule = Callable[[Any, list[str]], Any]


def _without_notices(rule: Callable[[Any], Any]) -> _Rule:
    return lambda value, notices: rule(value)


def _of_repeated_texts(rule: Callable[[Any], Any]) -> _Rule:
    """A rule for a field whose texts are mostly those of other products, of which the normalised ones are kept."""
    cached = lru_cache(_REPEATED_VALUES)(rule)
    return lambda value, notices: cached(value) if isinstance(value, str) else rule(value)


_RULES: Final[Mapping[str, _Rule]] = {
    "id": _without_notices(_id),
    "category": _of_repeated_texts(_category),
    "title": partial(_title, "title"),
    "description": partial(_description, "description"),
    "shop": _of_repeated_texts(_shop),
    "price": _without_notices(_price),
    "currency": _of_repeated_texts(_currency),
    "in_stock": _of_repeated_texts(_in_stock),
    "image": _without_notices(_image),
    "url": partial(_url, "url"),
    "tags": _without_notices(_tags),
    "created_at": _without_notices(_time("created_at")),
    "expires_at": _without_notices(_time("expires_at")),
    "revision": _without_notices(_revision),
}
