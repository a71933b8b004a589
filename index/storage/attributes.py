"""The attribute table of a shard's products: one memory-mapped Arrow file, rows by rising product id. Does file I/O."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.storage.strings import SortedStrings, Strings
from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.product_rules import BadField, normalise_tags, parse_field, split_tags
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1 import types_pb2

_TEXT = pa.large_string()
_TAGS = pa.large_list(_TEXT)
_DICTIONARY = pa.dictionary(pa.int32(), pa.large_string())
# The columns of a catalogue, with the type that each is cast to.
CATALOGUE: dict[str, pa.DataType] = {
    "id": _TEXT,
    "title": _TEXT,
    "description": _TEXT,
    "category": _TEXT,
    "shop": _TEXT,
    "price": pa.float64(),
    "currency": _TEXT,
    "in_stock": pa.bool_(),
    "image": _TEXT,
    "url": _TEXT,
    "tags": _TAGS,
    "created_at": pa.int64(),
    "expires_at": pa.int64(),
    "revision": pa.uint64(),
}
# The columns on disk: as above, but those that filters read are dictionary-encoded; and each serialized product.
SCHEMA = pa.schema(
    {
        **CATALOGUE,
        "category": _DICTIONARY,
        "shop": _DICTIONARY,
        "currency": _DICTIONARY,
        "tags": pa.large_list(_DICTIONARY),
        "product": pa.large_binary(),
    }
)
# Hits contain their products: 1,000 hits of 12 KiB are less than half of the largest message, 32 MiB.
MAX_PRODUCT_BYTES = 12 << 10
_DICTIONARIES = ("category", "shop", "currency")


class Attributes:
    """The table of one shard, read in place."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids = SortedStrings(batch["id"])
        self.products = Strings(batch["product"])  # Serialized `Product`s without description.
        self.descriptions = Strings(batch["description"])
        self.categories = SortedStrings(batch["category"].dictionary)
        self.category_codes: npt.NDArray[np.int32] = batch["category"].indices.to_numpy()
        self.shops = SortedStrings(batch["shop"].dictionary)
        self.shop_codes: npt.NDArray[np.int32] = batch["shop"].indices.to_numpy()
        self.revisions: npt.NDArray[np.uint64] = batch["revision"].to_numpy()
        self.prices: npt.NDArray[np.float64] = batch["price"].to_numpy()  # NaN: unknown.
        self.currencies = SortedStrings(batch["currency"].dictionary)
        self.currency_codes: npt.NDArray[np.int32] = batch["currency"].indices.to_numpy()
        self.in_stock: npt.NDArray[np.bool_] = batch["in_stock"].to_numpy(zero_copy_only=False)
        self.created: npt.NDArray[np.int64] = batch["created_at"].to_numpy()  # 0: unknown.
        self.expires: npt.NDArray[np.int64] = batch["expires_at"].to_numpy()  # 0: never.
        # The tags of row i have the codes tag_codes[tag_offsets[i] : tag_offsets[i + 1]].
        self.tags = SortedStrings(batch["tags"].values.dictionary)
        self.tag_codes: npt.NDArray[np.int32] = batch["tags"].values.indices.to_numpy()
        self.tag_offsets: npt.NDArray[np.int64] = batch["tags"].offsets.to_numpy()

    def __len__(self) -> int:
        return len(self.ids)

    def description(self, row: int) -> str:
        return self.descriptions.text(row)

    def shop(self, row: int) -> str:
        return self.shops.text(self.shop_codes[row])

    @property
    def parts(self) -> Sequence[Attributes]:
        """The tables that filters read, one after another."""
        return (self,)

    @property
    def part_rows(self) -> None:
        """None: this table is its only part."""

    @property
    def order(self) -> None:
        """None: rows are in the order of ids."""

    @cached_property
    def expiries(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """When products expire (Unix seconds, rising), and the row of each; without those that never do."""
        rows = np.flatnonzero(self.expires)
        rows = rows[np.argsort(self.expires[rows], kind="stable")]
        return self.expires[rows], rows


def open_attributes(path: Path) -> Attributes:
    """Map a table. Raises BadArtifact when the file is not one that `write_products` wrote."""
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        if file.schema != SCHEMA or file.num_record_batches != 1:
            raise BadArtifact(f"{path}: not an attribute table")
        return Attributes(file.get_batch(0))
    except (pa.ArrowException, OSError) as error:
        raise BadArtifact(f"{path}: {error}") from error


def write_products(path: Path, products: pa.Table) -> None:
    """Write rows of a table that `validate_products` returned, in its order."""
    write_serialized(path, with_serialized_products(products))


def write_serialized(path: Path, products: pa.Table) -> None:
    """Write a table that `with_serialized_products` or `read_serialized` returned."""
    batch = to_record_batch(products)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)


def read_serialized(path: Path) -> pa.Table:
    """The inverse of `write_serialized`. Raises ArrowException or OSError."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    columns = {name: table[name] for name in table.column_names}
    for name in _DICTIONARIES:
        columns[name] = columns[name].combine_chunks().dictionary_decode()
    tag_lists = columns["tags"].combine_chunks()
    columns["tags"] = pa.LargeListArray.from_arrays(tag_lists.offsets, tag_lists.values.dictionary_decode())
    return pa.table(columns)


def empty_serialized() -> pa.Table:
    """A table without rows, in the form that `read_serialized` returns."""
    return serialized_table([], [])


def to_record_batch(products: pa.Table) -> pa.RecordBatch:
    """The table in its form on disk: one batch, so that every column is contiguous."""
    columns = {name: products[name].combine_chunks() for name in SCHEMA.names}
    for name in _DICTIONARIES:
        columns[name] = _dictionary_encode(columns[name])
    tag_lists = columns["tags"]
    columns["tags"] = pa.LargeListArray.from_arrays(tag_lists.offsets, _dictionary_encode(tag_lists.values))
    return pa.record_batch([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def table_of_products(products: Sequence[types_pb2.Product], revisions: Sequence[int]) -> pa.Table:
    """The table that `validate_products` would return, of products that are valid, with their revisions."""
    columns = {
        name: pa.array([getattr(product, name) for product in products], kind)
        for name, kind in CATALOGUE.items()
        if name not in ("price", "tags", "revision")
    }
    prices = [product.price if product.HasField("price") else math.nan for product in products]
    columns["price"] = pa.array(prices, CATALOGUE["price"])
    columns["tags"] = pa.array([[*product.tags] for product in products], _TAGS)
    columns["revision"] = pa.array(revisions, CATALOGUE["revision"])
    return pa.table({name: columns[name] for name in CATALOGUE})


def serialized_table(products: Sequence[types_pb2.Product], revisions: Sequence[int]) -> pa.Table:
    """`table_of_products`, with the column of serialized products; none may be too large."""
    serialized = [_without_description(product).SerializeToString() for product in products]
    return table_of_products(products, revisions).append_column("product", pa.array(serialized, pa.large_binary()))


def _without_description(product: types_pb2.Product) -> types_pb2.Product:
    if not product.description:
        return product
    shortened = types_pb2.Product()
    shortened.CopyFrom(product)
    shortened.ClearField("description")
    return shortened


def with_serialized_products(products: pa.Table) -> pa.Table:
    """Add the column of serialized products to a validated table. Raises BadCatalogue for one too large."""
    return products.append_column("product", pa.array(_serialize_products(products), type=pa.large_binary()))


def validate_products(products: pa.Table) -> pa.Table:
    """The table with exactly the columns of CATALOGUE, normalised by `product_rules`; a category may be missing.

    Raises BadCatalogue with the row (from 0) and why.
    """
    if unknown := set(products.column_names) - set(CATALOGUE):
        raise BadCatalogue(f"unknown columns {sorted(unknown)}; known are {', '.join(CATALOGUE)}")
    if "id" not in products.column_names:
        raise BadCatalogue("no column `id`")
    converters = {"tags": _tags_column, "created_at": _time_column, "expires_at": _time_column}
    columns = {name: converters.get(name, _column)(products, name, kind) for name, kind in CATALOGUE.items()}
    for name, kind in CATALOGUE.items():
        if kind == _TEXT and name in products.column_names:
            columns[name] = _normalise_texts(columns[name], name)
    _raise_for_first(pc.less(columns["price"], 0), "has a price below 0")
    _raise_for_first(pc.is_inf(columns["price"]), "has a price that is not finite")
    refuse_duplicates(columns["id"], "row")
    return pa.table(columns)


def _normalise_texts(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Every text as its rule makes it; a category may be empty."""
    texts = column.unique()
    try:
        normal = [parse_field(name, text, []) if text or name == "id" else text for text in texts.to_pylist()]
    except BadField as bad:
        text = next(text for text in texts.to_pylist() if _is_bad(name, text))
        row = pc.index(column, pa.scalar(text, _TEXT)).as_py()
        raise BadCatalogue(f"row {row}: {bad}") from None
    if normal == texts.to_pylist():
        return column
    return pa.chunked_array([pa.array(normal, _TEXT).take(pc.index_in(column.combine_chunks(), value_set=texts))])


def _is_bad(name: str, text: str) -> bool:
    try:
        parse_field(name, text, [])
    except BadField:
        return bool(text) or name == "id"
    return False


def refuse_duplicates(ids: Any, what: str, first: int = 0) -> None:
    """Raises BadCatalogue naming both positions of an id that occurs twice, counted from `first`; what: the unit."""
    positions: dict[str, int] = {}
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    for position, product_id in enumerate(ids.to_pylist(), start=first):
        if product_id in positions:
            raise BadCatalogue(
                f"{what} {position}: the id {product_id!r} is already that of {what} {positions[product_id]}"
            )
        positions[product_id] = position


def _column(products: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    empty: Any = "" if kind == _TEXT else True if name == "in_stock" else math.nan if name == "price" else 0
    if name not in products.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(empty, kind), products.num_rows)])
    column = products[name]
    if not _can_cast(column.type, kind):
        raise BadCatalogue(f"column {name} is {column.type}, not {kind}")
    try:
        return column.cast(kind).fill_null(empty)
    except pa.ArrowInvalid as error:
        raise BadCatalogue(f"column {name}: {error}") from error


def _tags_column(products: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    """Tags from lists of text, or from text that `split_tags` reads; empty where missing."""
    if name not in products.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar([], kind), products.num_rows)])
    column = products[name]
    if not (_can_cast(column.type, _TEXT) or _is_list_of_text(column.type)):
        raise BadCatalogue(f"column tags is {column.type}, neither lists of text nor text")
    rows: list[list[str]] = []
    for row, value in enumerate(column.to_pylist()):
        row_tags = split_tags(value) if isinstance(value, str) else [tag or "" for tag in value or ()]
        try:
            rows.append(normalise_tags(row_tags))
        except ValueError as error:
            raise BadCatalogue(f"row {row} has {error}") from None
    return pa.chunked_array([pa.array(rows, kind)])


def _time_column(products: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    """Times from whole seconds since 1970, or from timestamps (UTC unless they have a zone); 0 where missing."""
    if name not in products.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(0, kind), products.num_rows)])
    column = products[name]
    given = column.type
    if not (pa.types.is_integer(given) or pa.types.is_timestamp(given) or pa.types.is_null(given)):
        raise BadCatalogue(f"column {name} is {given}, neither whole seconds since 1970 nor timestamps")
    if pa.types.is_timestamp(given):
        column = pc.floor_temporal(column, unit="second").cast(pa.timestamp("s", given.tz))
    seconds = column.cast(kind).fill_null(0)
    _raise_for_first(pc.less(seconds, 0), f"has a {name} before 1970")
    _raise_for_first(pc.greater(seconds, MAX_UNIX_S), f"has a {name} after the year 5138: expected seconds")
    return seconds


def _is_list_of_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _can_cast(kind.value_type, _TEXT)


def _can_cast(source: pa.DataType, target: pa.DataType) -> bool:
    if pa.types.is_dictionary(source):
        source = source.value_type
    if pa.types.is_null(source):
        return True
    if target == _TEXT:
        return bool(pa.types.is_string(source) or pa.types.is_large_string(source))
    if target == pa.uint64():
        return bool(pa.types.is_integer(source))
    if target == pa.float64():
        return bool(pa.types.is_floating(source) or pa.types.is_integer(source))
    return bool(pa.types.is_boolean(source))


def _raise_for_first(bad: Any, why: str) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise BadCatalogue(f"row {row} {why}")


def _dictionary_encode(column: pa.Array) -> pa.DictionaryArray:
    """Dictionary-encode with sorted values, so that a category's subtree is one range of codes."""
    values = column.unique().sort()
    return pa.DictionaryArray.from_arrays(pc.index_in(column, value_set=values), values)


def _serialize_products(products: pa.Table) -> Iterator[bytes]:
    names = [name for name in CATALOGUE if name not in ("description", "price")]
    prices = products["price"].to_pylist()
    for price, values in zip(prices, zip(*(products[name].to_pylist() for name in names), strict=True), strict=True):
        product = types_pb2.Product(**dict(zip(names, values, strict=True)))
        if not math.isnan(price):
            product.price = price
        serialized = product.SerializeToString()
        if len(serialized) > MAX_PRODUCT_BYTES:
            raise BadCatalogue(f"product {values[0]!r} has over {MAX_PRODUCT_BYTES} bytes without its description")
        yield serialized
