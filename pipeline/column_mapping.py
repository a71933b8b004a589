"""Maps the columns of a table from elsewhere to the fields of a product. Pure."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lookalike import product_rules
from lookalike.errors import BadSettings
from lookalike.product_rules import FIELDS

_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnMapping:
    """The columns that each field of a product is made of.

    fields:    field -> columns. Several are joined to one category path, or to one text with spaces. For tags: columns
               that hold tags, and templates with columns in braces: "colour:{baseColour}".
    constants: field -> the same value for every product.
    image:     template of the photo's file name, with columns in braces: "{id}.jpg"; empty: no photos.
    """

    fields: Mapping[str, Sequence[str]]
    constants: Mapping[str, str] = field(default_factory=dict)
    image: str = ""
    category_separator: str = "/"
    category_prefix: str = ""
    category_depth: int = 0  # How many parts of a category are kept; 0: all.

    def columns(self) -> set[str]:
        """The names of all columns that the mapping reads."""
        in_fields = {column for name, columns in self.fields.items() if name != "tags" for column in columns}
        in_tags = {column for part in self.fields.get("tags", ()) for column in _PLACEHOLDER.findall(part) or [part]}
        return in_fields | in_tags | set(_PLACEHOLDER.findall(self.image))

    def product_fields(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The fields of a product, not validated yet, without its photo."""
        values: dict[str, Any] = dict(self.constants)
        for name, columns in self.fields.items():
            if name == "tags":
                values[name] = [tag for part in columns for tag in _tags(part, record)]
            else:
                values[name] = self._field(name, [record.get(column) for column in columns])
        return values

    def image_name(self, record: Mapping[str, Any]) -> str:
        """The file name of the product's photo; empty if a column that it needs is empty."""
        return _fill_template(
            self.image, {column: _text(record.get(column)) for column in _PLACEHOLDER.findall(self.image)}
        )

    def _field(self, name: str, cells: Sequence[Any]) -> Any:
        if name == "category":
            parts = [part for cell in cells for part in _first_item(cell).split(self.category_separator)]
            return category_path([self.category_prefix, *parts], self.category_depth)
        if name == "price":
            return clean_price(cells[0])
        if len(cells) == 1 and not isinstance(cells[0], str):
            return cells[0]
        return " ".join(text for text in map(_text, cells) if text)


def parse_mapping(
    fields: Sequence[str],
    constants: Sequence[str] = (),
    *,
    image: str = "",
    category_separator: str = "/",
    category_prefix: str = "",
    category_depth: int = 0,
) -> ColumnMapping:
    """Parse command-line options such as "title=product_name" and "currency=INR". Raises BadSettings."""
    columns = {name: [part.strip() for part in value.split(",")] for name, value in map(_parse_pair, fields)}
    if "image" in columns:
        raise BadSettings("--field image=… is not allowed: use --image '{column}' and --images FILE")
    columns.setdefault("id", ["id"])
    set_values = dict(map(_parse_pair, constants))
    if duplicates := columns.keys() & set_values.keys():
        raise BadSettings(f"{', '.join(sorted(duplicates))}: in both --field and --set")
    if category_depth < 0:
        raise BadSettings(f"--category-depth {category_depth}: must be 0 or more")
    if not category_separator:
        raise BadSettings("--category-separator: must not be empty")
    return ColumnMapping(
        fields=columns,
        constants=set_values,
        image=image,
        category_separator=category_separator,
        category_prefix=category_prefix,
        category_depth=category_depth,
    )


def _parse_pair(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals or not value or name not in FIELDS:
        raise BadSettings(f"{option}: expected FIELD=…, with FIELD one of {', '.join(FIELDS)}")
    return name, value


def _tags(source: str, record: Mapping[str, Any]) -> list[str]:
    """The tags of a product from one source: at most one from a template, or all that a column holds."""
    if columns := _PLACEHOLDER.findall(source):
        names = [_fill_template(source, {column: category_name(_text(record.get(column))) for column in columns})]
    else:
        cell = record.get(source)
        names = [
            category_name(_text(tag))
            for tag in (cell if isinstance(cell, list) else product_rules.split_tags(_text(cell)))
        ]
    return [tag for tag in names if tag]


def _fill_template(template: str, values: Mapping[str, str]) -> str:
    """Replace the columns in braces by their values; empty if any value is empty."""
    return _PLACEHOLDER.sub(lambda placeholder: values[placeholder[1]], template) if all(values.values()) else ""


def category_path(parts: Sequence[str], depth: int = 0) -> str:
    """Join parts to one path of lower-case names: "Shoes" and "Men's Shoes" give "shoes/men's-shoes"."""
    names = [name for part in parts for name in [category_name(part)] if name]
    return "/".join(names[:depth] if depth else names)


def category_name(text: str) -> str:
    """Normalise one name of a path: NFKC, lower case, stripped, "-" for every run of spaces and slashes."""
    return re.sub(r"[\s/]+", "-", unicodedata.normalize("NFKC", text).strip(" \t\r\n/").lower())


# Commas between thousands, or between lakhs as in India. "12,50" and "1.299,00" do not match and are refused later.
_FORMATTED_PRICE = re.compile(r"[^\d+\-.,]*([+-]?(?:\d{1,3}(?:,\d{2,3})*,\d{3}|\d+)(?:\.\d+)?)[^\d.,]*")


def clean_price(cell: Any) -> Any:
    """Remove currency signs and thousands separators from a price: "₹ 1,299.00" gives "1299.00". Else unchanged."""
    text = _text(cell)
    match = _FORMATTED_PRICE.fullmatch(re.sub(r"(?i)rs\.", "", text))
    return match[1].replace(",", "") if match else text


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _first_item(cell: Any) -> str:
    """The text of a cell; of a JSON list such as '["Home >> Lamps"]' its first item."""
    text = _text(cell[0] if isinstance(cell, list) and cell else cell)
    if not text.startswith("["):
        return text
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        return text
    return str(items[0]) if isinstance(items, list) and items else ""
