"""Maps the columns of a table from elsewhere to the fields of a product. Pure."""

from __future__ import annotations

import dataclasses
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property, lru_cache
from typing import Any

from encoders.text.tokens import strip_markup
from lookalike.errors import BadSettings
from lookalike.product_rules import FIELDS, MAX_TAG_BYTES, MAX_TAGS, TAG_SEPARATOR
from lookalike.strict_json import parse_json
from pipeline.prices import parse_price

# Tags within words and sentences, in whose place there is no space.
_INLINE_TAG = re.compile(r"</?(?:a|b|em|font|i|mark|small|span|strong|sub|sup|u)(?:\s[^<>]*)?>", re.IGNORECASE)
_SPACES = re.compile(r"[^\S\n]*\n\s*|[^\S\n]+")
_LIST_SIGN = re.compile("[,;、，；]")
_PLACEHOLDER = re.compile(r"\{([^{}]+)\}")
_CACHED = 1 << 16  # Normalised categories and tags are kept: a million products have a few thousand.


class Note(StrEnum):
    """What a mapping had to assume or leave out, counted by product."""

    TAG_WITH_COMMA = "a tag holds commas or semicolons: give --tags-separator , (or ;) if it is several tags"
    TAG_LEFT_OUT = "has more or longer tags than an index keeps: those are left out"
    DECIMAL_COMMA = "price has a decimal comma"
    AMBIGUOUS_PRICE = (
        "price can be read in two ways, such as 1.299, while others have decimal commas: "
        "give --decimal-sign , (or . to say that it was read rightly)"
    )
    NO_CATEGORY = "has no category, and got the one for such products"


@dataclass(frozen=True, slots=True)
class Condition:
    """A condition on one column of a row: that its text equals a value, or does not; regardless of case."""

    column: str
    value: str
    equal: bool = True

    def holds(self, record: Mapping[str, Any]) -> bool:
        return (_text(record.get(self.column)).casefold() == self.value.casefold()) is self.equal


@dataclass(frozen=True, kw_only=True)
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
    image_separator: str = ""  # Between photos in one cell, of which the first is used; empty: one photo in each.
    category_separator: str = "/"
    category_list_separator: str = ""  # Between categories in one cell, of which the first is used; empty: one in each.
    category_prefix: str = ""
    category_depth: int = 0  # How many parts of a category are kept; 0: all.
    default_category: str = ""  # Of products that state none; empty: these are rejected.
    tags_separator: str = ""  # Between tags in one cell; empty: "|".
    decimal_sign: str = "."  # Of prices that could be read in two ways.
    decimal_sign_given: bool = False  # Whether whoever runs the command stated it.
    strip_html: bool = False  # From titles and descriptions.
    fallbacks: Mapping[str, Sequence[str]] = field(default_factory=dict)  # Column -> columns read where it is empty.
    optional: frozenset[str] = frozenset()  # Columns that a table may lack.
    in_stock_where: tuple[Condition, ...] = ()  # One that holds makes a product be in stock, whatever the quantity.
    where: tuple[Condition, ...] = ()  # Only rows for which all hold are imported.
    group: tuple[str, ...] = ()  # Templates of what rows of one product share; the first that is filled counts.

    def columns(self) -> set[str]:
        """The names of all columns that the mapping cannot do without."""
        in_fields = {column for name, columns in self.fields.items() if name != "tags" for column in columns}
        in_tags = {column for part in self.fields.get("tags", ()) for column in _PLACEHOLDER.findall(part) or [part]}
        in_templates = {column for template in (self.image, *self.group) for column in _PLACEHOLDER.findall(template)}
        in_conditions = {condition.column for condition in self.where}
        return (in_fields | in_tags | in_templates | in_conditions) - self.optional

    def accepts(self, record: Mapping[str, Any]) -> bool:
        """Whether all conditions on rows hold."""
        return all(condition.holds(record) for condition in self.where)

    def group_of(self, record: Mapping[str, Any]) -> str:
        """What the rows of one product share; empty: the row is a product of its own."""
        return next((key for template in self._group_templates if (key := template.fill(self._cells, record))), "")

    def product_fields(self, record: Mapping[str, Any], notes: Counter[Note] | None = None) -> dict[str, Any]:
        """The fields of a product, not validated yet, without its photo. notes: counts what was assumed."""
        notes = Counter() if notes is None else notes
        values: dict[str, Any] = dict(self.constants)
        for name, column in self._copied:
            cell = record.get(column)
            values[name] = _text(cell) if isinstance(cell, float) else cell
        for name, read in self._readers:
            values[name] = read(record, notes)
        if "price" in self.fields:
            self._set_price(values, self._cell(record, self.fields["price"][0]), notes)
        if self.default_category and not values.get("category"):
            notes[Note.NO_CATEGORY] += 1
            values["category"] = self.default_category
        return values

    def image_name(self, record: Mapping[str, Any]) -> str:
        """The file name or URL of the product's photo; empty if a column that it needs is empty."""
        return self._image_template.fill(self._cells, record) if self.image else ""

    def matched_to(self, columns: Collection[str]) -> ColumnMapping:
        """With the names of a table's columns, where these differ in case, width, spaces and underscores only."""
        actual = {_loose(column): column for column in reversed(list(columns))}

        def name(column: str) -> str:
            return actual.get(_loose(column), column)

        def template(text: str) -> str:
            return _PLACEHOLDER.sub(lambda found: f"{{{name(found[1])}}}", text)

        def condition(each: Condition) -> Condition:
            return dataclasses.replace(each, column=name(each.column))

        return dataclasses.replace(
            self,
            fields={
                key: [template(part) if _PLACEHOLDER.search(part) else name(part) for part in parts]
                for key, parts in self.fields.items()
            },
            image=template(self.image),
            fallbacks={name(column): [name(other) for other in others] for column, others in self.fallbacks.items()},
            optional=frozenset(map(name, self.optional)),
            in_stock_where=tuple(map(condition, self.in_stock_where)),
            where=tuple(map(condition, self.where)),
            group=tuple(map(template, self.group)),
        )

    @cached_property
    def _copied(self) -> list[tuple[str, str]]:
        """The fields that are the cell of one column."""
        if self.fallbacks:
            return []
        markup = ("title", "description") if self.strip_html else ()
        return [
            (name, columns[0])
            for name, columns in self.fields.items()
            if len(columns) == 1 and name not in ("tags", "category", "in_stock", "price", *markup)
        ]

    @cached_property
    def _readers(self) -> list[tuple[str, _Reader]]:
        """How each other field but the price is read, decided once: a table has a million rows."""
        done = {"price", *(name for name, _ in self._copied)}
        return [(name, self._reader(name, columns)) for name, columns in self.fields.items() if name not in done]

    @cached_property
    def _image_template(self) -> _Template:
        return _Template.of(self.image, separator=self.image_separator)

    @cached_property
    def _group_templates(self) -> list[_Template]:
        return [_Template.of(template) for template in self.group]

    def _reader(self, name: str, columns: Sequence[str]) -> _Reader:
        if name == "tags":
            return self._tags_reader(columns)
        if name == "category":
            return lambda record, notes: self._category(self._cells(record, columns))
        if name == "in_stock":
            return lambda record, notes: self._in_stock(self._cells(record, columns), record)
        if self.strip_html and name in ("title", "description"):
            return lambda record, notes: _without_markup(_joined(self._cells(record, columns)))
        return lambda record, notes: _joined(self._cells(record, columns))

    def _category(self, cells: Sequence[Any]) -> str:
        texts = tuple(cell if isinstance(cell, str) else _first_item(cell) for cell in cells)
        return _category_of(
            texts,
            self.category_list_separator,
            self.category_separator,
            self.category_prefix,
            self.category_depth,
        )

    def _tags_reader(self, parts: Sequence[str]) -> _Reader:
        columns = list(dict.fromkeys(column for part in parts for column in _PLACEHOLDER.findall(part) or [part]))
        templates = {part: _Template.of(part, normalise=category_name) for part in parts if _PLACEHOLDER.search(part)}
        separator = self.tags_separator or TAG_SEPARATOR

        def tags(record: Mapping[str, Any]) -> tuple[list[str], bool, bool]:
            """The tags, whether one in a column holds commas, and whether some are left out."""
            names: list[str] = []
            commas = False
            for part in parts:
                if part in templates:  # At most one tag.
                    names.append(templates[part].fill(self._cells, record))
                elif isinstance(cell := record.get(part), list):
                    names += [category_name(_text(tag)) for tag in cell]
                else:
                    names += map(category_name, _text(cell).split(separator))
                    commas |= not self.tags_separator and bool(_LIST_SIGN.search(_text(cell)))
            filled = list(dict.fromkeys(name for name in names if name))
            kept = [name for name in filled if len(name.encode()) <= MAX_TAG_BYTES][:MAX_TAGS]
            return kept, commas, len(kept) < len(filled)

        @lru_cache(_CACHED)
        def tags_of_texts(*cells: str) -> tuple[list[str], bool, bool]:
            return tags(dict(zip(columns, cells, strict=True)))

        def read(record: Mapping[str, Any], notes: Counter[Note]) -> list[str]:
            cells = [record.get(column) for column in columns]
            are_texts = not self.fallbacks and all(isinstance(cell, str) for cell in cells)
            kept, commas, left_out = tags_of_texts(*cells) if are_texts else tags(record)
            if commas:
                notes[Note.TAG_WITH_COMMA] += 1
            if left_out:
                notes[Note.TAG_LEFT_OUT] += 1
            return kept

        return read

    def _cell(self, record: Mapping[str, Any], column: str) -> Any:
        cell = record.get(column)
        if (cell is None or cell == "") and column in self.fallbacks:
            return next((other for name in self.fallbacks[column] if (other := record.get(name))), cell)
        return cell

    def _cells(self, record: Mapping[str, Any], columns: Sequence[str]) -> list[Any]:
        if self.fallbacks:
            return [self._cell(record, column) for column in columns]
        return [record.get(column) for column in columns]

    def _set_price(self, values: dict[str, Any], cell: Any, notes: Counter[Note]) -> None:
        price = parse_price(cell, self.decimal_sign)
        values["price"] = price.amount
        if price.currency and "currency" not in self.fields and "currency" not in self.constants:
            values["currency"] = price.currency
        if not self.decimal_sign_given and (price.decimal_comma or price.ambiguous):
            notes[Note.DECIMAL_COMMA] += price.decimal_comma
            notes[Note.AMBIGUOUS_PRICE] += price.ambiguous

    def _in_stock(self, cells: Sequence[Any], record: Mapping[str, Any]) -> Any:
        if self.in_stock_where and any(each.column in record and each.holds(record) for each in self.in_stock_where):
            return True
        for cell in cells:
            if cell is not None and cell != "":
                return cell
        return None


_Reader = Callable[[Mapping[str, Any], Counter[Note]], Any]


@dataclass(frozen=True, slots=True)
class _Template:
    """A text with columns in braces, taken apart once: texts[0], columns[0], texts[1], …"""

    texts: Sequence[str]
    columns: Sequence[str]
    separator: str  # Of several values in a cell, of which the first is used; empty: the cell is one value.
    normalise: Callable[[str], str]

    @classmethod
    def of(cls, template: str, *, separator: str = "", normalise: Callable[[str], str] = str) -> _Template:
        parts = _PLACEHOLDER.split(template)
        return cls(parts[::2], parts[1::2], separator, normalise)

    def fill(self, cells: Callable[[Mapping[str, Any], Sequence[str]], list[Any]], record: Mapping[str, Any]) -> str:
        """Replace the columns by the values of their cells; empty if any value is empty."""
        values = [_text(cell) for cell in cells(record, self.columns)]
        if self.separator:
            values = [_first_part(value, self.separator) for value in values]
        if not all(values):
            return ""
        filled = self.texts[0]
        for value, text in zip(values, self.texts[1:], strict=True):
            filled += self.normalise(value) + text
        return filled


def parse_mapping(
    fields: Sequence[str],
    constants: Sequence[str] = (),
    *,
    base: ColumnMapping | None = None,
    where: Sequence[str] = (),
    group: str = "",
    **options: Any,
) -> ColumnMapping:
    """Parse command-line options such as "title=product_name" and "currency=INR". Raises BadSettings.

    base: the mapping of a preset, of which these options replace parts. options: other fields of a ColumnMapping, by
    name; None leaves that of the base.
    """
    columns = {name: [part.strip() for part in value.split(",")] for name, value in map(_parse_pair, fields)}
    if "image" in columns:
        raise BadSettings("--field image=… is not allowed: use --image '{column}' and --images FILE")
    set_values = dict(map(_parse_pair, constants))
    if duplicates := columns.keys() & set_values.keys():
        raise BadSettings(f"{', '.join(sorted(duplicates))}: in both --field and --set")
    given = {name: value for name, value in options.items() if value is not None}
    if given.get("category_depth", 0) < 0:
        raise BadSettings(f"--category-depth {given['category_depth']}: must be 0 or more")
    if not given.get("category_separator", "/"):
        raise BadSettings("--category-separator: must not be empty")
    if (sign := given.get("decimal_sign", ".")) not in (".", ","):
        raise BadSettings(f"--decimal-sign {sign}: must be . or ,")
    if "decimal_sign" in given:
        given["decimal_sign_given"] = True
    if where:
        given["where"] = (*(base.where if base else ()), *map(_parse_condition, where))
    if group:
        given["group"] = (f"{{{group}}}",)
    if base is None:
        return ColumnMapping(fields={"id": ["id"], **columns}, constants=set_values, **given)
    return dataclasses.replace(
        base,
        fields={name: parts for name, parts in base.fields.items() if name not in set_values} | columns,
        constants={name: value for name, value in base.constants.items() if name not in columns} | set_values,
        **given,
    )


def _parse_pair(option: str) -> tuple[str, str]:
    name, equals, value = option.partition("=")
    if not equals or not value or name not in FIELDS:
        raise BadSettings(f"{option}: expected FIELD=…, with FIELD one of {', '.join(FIELDS)}")
    return name, unicodedata.normalize("NFC", value)


def _parse_condition(option: str) -> Condition:
    column, sign, value = option.partition("!=")
    if not sign:
        column, sign, value = option.partition("=")
    if not sign or not column.strip():
        raise BadSettings(f"--where {option}: expected COLUMN=VALUE or COLUMN!=VALUE")
    return Condition(unicodedata.normalize("NFC", column.strip()), value.strip(), sign == "=")


def category_path(parts: Sequence[str], depth: int = 0) -> str:
    """Join parts to one path of lower-case names: "Shoes" and "Men's Shoes" give "shoes/men's-shoes"."""
    names = [name for part in parts for name in [category_name(part)] if name]
    return "/".join(names[:depth] if depth else names)


@lru_cache(_CACHED)
def category_name(text: str) -> str:
    """Normalise one name of a path: NFKC, lower case, stripped, "-" for every run of spaces and slashes."""
    return re.sub(r"[\s/]+", "-", unicodedata.normalize("NFKC", text).strip(" \t\r\n/").lower())


@lru_cache(_CACHED)
def _category_of(cells: tuple[str, ...], list_separator: str, separator: str, prefix: str, depth: int) -> str:
    cells = tuple(map(_first_item, cells))
    if list_separator:
        cells = tuple(_first_part(cell, list_separator) for cell in cells)
    return category_path([prefix, *(part for cell in cells for part in cell.split(separator))], depth)


def _single(cell: Any) -> Any:
    """A cell as it is; a number with a fraction as text."""
    return _text(cell) if isinstance(cell, float) else cell


def _joined(cells: Sequence[Any]) -> Any:
    """Cells joined by spaces; a single one as it is."""
    return _single(cells[0]) if len(cells) == 1 else " ".join(filter(None, map(_text, cells)))


def _without_markup(text: Any) -> Any:
    if not isinstance(text, str) or ("<" not in text and "&" not in text):
        return text
    return _SPACES.sub(_one_space, strip_markup(_INLINE_TAG.sub("", text))).strip()


def _text(cell: Any) -> str:
    if isinstance(cell, str):
        return cell.strip()
    if cell is None:
        return ""
    return str(int(cell) if isinstance(cell, float) and cell.is_integer() else cell).strip()


def _first_part(text: str, separator: str) -> str:
    return next((part.strip() for part in text.split(separator) if part.strip()), "")


def _first_item(cell: Any) -> str:
    """The text of a cell; of a JSON list such as '["Home >> Lamps"]' its first item."""
    text = _text(cell[0] if isinstance(cell, list) and cell else cell)
    if not text.startswith("["):
        return text
    try:
        items = parse_json(text)
    except ValueError:
        return text
    return str(items[0]) if isinstance(items, list) and items else ""


def _one_space(found: re.Match[str]) -> str:
    return "\n" if "\n" in found[0] else " "


def _loose(name: str) -> str:
    return re.sub(r"[\s_]+", " ", unicodedata.normalize("NFKC", name)).strip().casefold()
