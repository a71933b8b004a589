"""From the columns of a foreign table to the fields of a product. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from index.storage import tags
from lookalike.errors import BadSettings
from pipeline.product import FIELDS

_PLACE = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What each field of a product is made of.

    fields:    field -> columns. Several make one category path, or one text with spaces between. For tags, columns
               that hold tags, and tags with columns in braces: "colour:{baseColour}".
    constants: field -> its value for every product.
    image:     the photo's name, with columns in braces: "{id}.jpg"; empty: no photos.
    """

    fields: Mapping[str, Sequence[str]]
    constants: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    category_separator: str = "/"
    category_prefix: str = ""
    category_depth: int = 0  # How many parts of a category are kept; 0: all.

    def columns(self) -> set[str]:
        """Every column it reads."""
        named = {column for name, columns in self.fields.items() if name != "tags" for column in columns}
        in_tags = {column for part in self.fields.get("tags", ()) for column in _PLACE.findall(part) or [part]}
        return named | in_tags | set(_PLACE.findall(self.image))

    def product(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a product but its photo, not checked yet."""
        made: dict[str, Any] = dict(self.constants)
        for name, columns in self.fields.items():
            if name == "tags":
                made[name] = [tag for part in columns for tag in _tags(part, record)]
            else:
                made[name] = self._field(name, [record.get(column) for column in columns])
        return made

    def image_name(self, record: Mapping[str, Any]) -> str:
        """What the product's photo is called; empty where a column that its name needs is."""
        return _filled(self.image, {column: _text(record.get(column)) for column in _PLACE.findall(self.image)})

    def _field(self, name: str, cells: Sequence[Any]) -> Any:
        if name == "category":
            parts = [part for cell in cells for part in _first(cell).split(self.category_separator)]
            return category([self.category_prefix, *parts], self.category_depth)
        if name == "price":
            return number(cells[0])
        if len(cells) == 1 and not isinstance(cells[0], str):
            return cells[0]
        return " ".join(text for text in map(_text, cells) if text)


def mapping(
    fields: Sequence[str],
    constants: Sequence[str] = (),
    *,
    image: str = "",
    category_separator: str = "/",
    category_prefix: str = "",
    category_depth: int = 0,
) -> Rules:
    """From the words of a command line, "title=product_name" and "currency=INR". Raises BadSettings."""
    columns = {name: [part.strip() for part in value.split(",")] for name, value in map(_pair, fields)}
    if "image" in columns:
        raise BadSettings("--field image=…: say --image '{column}' and --images FILE instead")
    columns.setdefault("id", ["id"])
    stated = dict(map(_pair, constants))
    if twice := columns.keys() & stated.keys():
        raise BadSettings(f"{', '.join(sorted(twice))}: both a --field and a --set")
    if category_depth < 0:
        raise BadSettings(f"--category-depth {category_depth}: not 0 or more")
    if not category_separator:
        raise BadSettings("--category-separator: not empty")
    return Rules(
        fields=columns,
        constants=stated,
        image=image,
        category_separator=category_separator,
        category_prefix=category_prefix,
        category_depth=category_depth,
    )


def _pair(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not equals or not value or name not in FIELDS:
        raise BadSettings(f"{word}: not FIELD=…, with FIELD one of {', '.join(FIELDS)}")
    return name, value


def _tags(part: str, record: Mapping[str, Any]) -> list[str]:
    """What a part of the rule for tags makes of a product: one tag at most, or those that a column holds."""
    if columns := _PLACE.findall(part):
        made = [_filled(part, {column: category_name(_text(record.get(column))) for column in columns})]
    else:
        cell = record.get(part)
        made = [category_name(_text(tag)) for tag in (cell if isinstance(cell, list) else tags.split(_text(cell)))]
    return [tag for tag in made if tag]


def _filled(pattern: str, values: Mapping[str, str]) -> str:
    """The pattern with values for the columns in its braces; empty where a value is."""
    return _PLACE.sub(lambda place: values[place[1]], pattern) if all(values.values()) else ""


def category(parts: Sequence[str], depth: int = 0) -> str:
    """One path of lower-case names: "Shoes / Men's Shoes" in two parts is "shoes/men's-shoes"."""
    names = [name for part in parts for name in [category_name(part)] if name]
    return "/".join(names[:depth] if depth else names)


def category_name(text: str) -> str:
    """NFKC, lower case, no space around it, "-" for every run of spaces and slashes in it."""
    return re.sub(r"[\s/]+", "-", unicodedata.normalize("NFKC", text).strip(" \t\r\n/").lower())


# Commas between thousands, or as in India between lakhs; "12,50" and "1.299,00" are left to be refused.
_DECORATED = re.compile(r"[^\d+\-.,]*([+-]?(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)(?:\.\d+)?)[^\d.,]*")


def number(cell: Any) -> Any:
    """A price without its currency's sign and its thousands' commas, else what it is: "₹ 1,299.00" is "1299.00"."""
    text = _text(cell)
    found = _DECORATED.fullmatch(re.sub(r"(?i)rs\.", "", text))
    return found[1].replace(",", "") if found else text


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _first(cell: Any) -> str:
    """A cell that is a JSON list stands for its first item: '["Home >> Lamps"]'."""
    text = _text(cell[0] if isinstance(cell, list) and cell else cell)
    if not text.startswith("["):
        return text
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return str(items[0]) if isinstance(items, list) and items else ""
