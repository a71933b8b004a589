"""The attributes of a shard's products: one memory-mapped Arrow file, rows by rising product id."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.storage import tags
from index.storage.strings import SortedStrings, Strings
from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1 import types_pb2

_TEXT = pa.large_string()
_TAGS = pa.large_list(_TEXT)
_CODED = pa.dictionary(pa.int32(), pa.large_string())
# What a catalogue may say of a product, with the type it is brought to.
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
    "revision": pa.uint64(),
}
# What is on disk: as above, what filters look at by code, and each product ready to be sent.
SCHEMA = pa.schema(
    {
        **CATALOGUE,
        "category": _CODED,
        "shop": _CODED,
        "tags": pa.large_list(_CODED),
        "product": pa.large_binary(),
    }
)
ID_BYTES = 256
# A hit carries its product, all of whose fields may be as long as they may; 1,000 hits of 12 KiB are less than half of
# the 32 MiB that a message may have.
PRODUCT_BYTES = 12 << 10
DESCRIPTION_BYTES = 1 << 20


class Attributes:
    """The table of one shard, read where it lies."""

    def __init__(self, batch: pa.RecordBatch) -> None:
        self.ids = SortedStrings(batch["id"])
        self.products = Strings(batch["product"])  # Serialized `Product`s without description.
        self.descriptions = Strings(batch["description"])
        self.categories = SortedStrings(batch["category"].dictionary)
        self.category_codes: npt.NDArray[np.int32] = batch["category"].indices.to_numpy()
        self.shops = SortedStrings(batch["shop"].dictionary)
        self.shop_codes: npt.NDArray[np.int32] = batch["shop"].indices.to_numpy()
        self.revisions: npt.NDArray[np.uint64] = batch["revision"].to_numpy()
        self.prices: npt.NDArray[np.float64] = batch["price"].to_numpy()
        self.in_stock: npt.NDArray[np.bool_] = batch["in_stock"].to_numpy(zero_copy_only=False)
        self.created: npt.NDArray[np.int64] = batch["created_at"].to_numpy()
        # The tags of row i are those of the codes tag_codes[tag_offsets[i] : tag_offsets[i + 1]].
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
        """What filters look at, one after another."""
        return (self,)

    @property
    def order(self) -> None:
        """Rows rise with the ids."""


def opened(path: Path) -> Attributes:
    """Raises BadArtifact when the file is not what `write` makes."""
    try:
        file = pa.ipc.open_file(pa.memory_map(str(path)))
        if file.schema != SCHEMA or file.num_record_batches != 1:
            raise BadArtifact(f"{path}: not a table of products")
        return Attributes(file.get_batch(0))
    except (pa.ArrowException, OSError) as error:
        raise BadArtifact(f"{path}: {error}") from error


def write(path: Path, products: pa.Table) -> None:
    """Write rows of a table that `checked` returned, in its order."""
    save(path, serialized(products))


def save(path: Path, products: pa.Table) -> None:
    """The same of a table that `serialized` or `read` returned."""
    batch = batch_of(products)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_batch(batch)


def read(path: Path) -> pa.Table:
    """What `save` was given. Raises ArrowException or OSError."""
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    columns = {name: table[name] for name in table.column_names}
    for name in ("category", "shop"):
        columns[name] = columns[name].combine_chunks().dictionary_decode()
    listed = columns["tags"].combine_chunks()
    columns["tags"] = pa.LargeListArray.from_arrays(listed.offsets, listed.values.dictionary_decode())
    return pa.table(columns)


def batch_of(products: pa.Table) -> pa.RecordBatch:
    """As it is on disk. One batch: every column is one piece of memory."""
    columns = {name: products[name].combine_chunks() for name in SCHEMA.names}
    for name in ("category", "shop"):
        columns[name] = _coded(columns[name])
    listed = columns["tags"]
    columns["tags"] = pa.LargeListArray.from_arrays(listed.offsets, _coded(listed.values))
    return pa.record_batch([columns[field.name] for field in SCHEMA], schema=SCHEMA)


def table_of(products: Sequence[types_pb2.Product], revisions: Sequence[int]) -> pa.Table:
    """What `checked` returns, of products that have been checked, with their revisions."""
    columns = {
        name: pa.array([getattr(product, name) for product in products], kind)
        for name, kind in CATALOGUE.items()
        if name not in ("tags", "revision")
    }
    columns["tags"] = pa.array([[*product.tags] for product in products], _TAGS)
    columns["revision"] = pa.array(revisions, CATALOGUE["revision"])
    return pa.table({name: columns[name] for name in CATALOGUE})


def serialized(products: pa.Table) -> pa.Table:
    """A table that `checked` returned, and each product ready to be sent. Raises BadCatalogue for one too large."""
    return products.append_column("product", pa.array(_serialized(products), type=pa.large_binary()))


def checked(products: pa.Table) -> pa.Table:
    """The table with exactly the columns of CATALOGUE, in their types; what is not stated is empty, 0 or false.

    Raises BadCatalogue with the row (from 0) and why.
    """
    if unknown := set(products.column_names) - set(CATALOGUE):
        raise BadCatalogue(f"unknown columns {sorted(unknown)}; known are {', '.join(CATALOGUE)}")
    if "id" not in products.column_names:
        raise BadCatalogue("no column `id`")
    made = {"tags": _tags, "created_at": _created}
    columns = {
        name: made[name](products) if name in made else _column(products, name, kind)
        for name, kind in CATALOGUE.items()
    }
    _refuse_first(pc.less(pc.binary_length(columns["id"]), 1), "has no id")
    _refuse_first(pc.greater(pc.binary_length(columns["id"]), ID_BYTES), f"has an id over {ID_BYTES} bytes")
    _refuse_first(pc.invert(pc.is_finite(columns["price"])), "has a price that is not finite")
    too_long = pc.greater(pc.binary_length(columns["description"]), DESCRIPTION_BYTES)
    _refuse_first(too_long, f"has a description over {DESCRIPTION_BYTES} bytes")
    refuse_duplicates(columns["id"], "row")
    return pa.table(columns)


def refuse_duplicates(ids: Any, what: str, first: int = 0) -> None:
    """Raises BadCatalogue naming the two places of an id that occurs twice; places are counted from `first`."""
    seen: dict[str, int] = {}
    if pc.count_distinct(ids).as_py() == len(ids):
        return
    for place, product_id in enumerate(ids.to_pylist(), start=first):
        if product_id in seen:
            raise BadCatalogue(f"{what} {place}: the id {product_id!r} is already that of {what} {seen[product_id]}")
        seen[product_id] = place


def _column(products: pa.Table, name: str, kind: pa.DataType) -> pa.ChunkedArray:
    empty: Any = "" if kind == _TEXT else False if kind == pa.bool_() else 0
    if name not in products.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(empty, kind), products.num_rows)])
    column = products[name]
    if not _may_become(column.type, kind):
        raise BadCatalogue(f"column {name} is {column.type}, not {kind}")
    try:
        return column.cast(kind).fill_null(empty)
    except pa.ArrowInvalid as error:
        raise BadCatalogue(f"column {name}: {error}") from error


def _tags(products: pa.Table) -> pa.ChunkedArray:
    """Lists of text, or one text each as `tags.split` reads it; where none are stated, none."""
    if "tags" not in products.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar([], _TAGS), products.num_rows)])
    column = products["tags"]
    if not (_may_become(column.type, _TEXT) or _is_list_of_text(column.type)):
        raise BadCatalogue(f"column tags is {column.type}, neither lists of text nor text")
    rows: list[list[str]] = []
    for row, given in enumerate(column.to_pylist()):
        listed = tags.split(given) if isinstance(given, str) else [tag or "" for tag in given or ()]
        try:
            rows.append(tags.checked(listed))
        except ValueError as error:
            raise BadCatalogue(f"row {row} has {error}") from None
    return pa.chunked_array([pa.array(rows, _TAGS)])


def _created(products: pa.Table) -> pa.ChunkedArray:
    """Whole seconds since 1970, or timestamps (in UTC where they state no zone); where none is stated, 0."""
    if "created_at" not in products.column_names:
        return pa.chunked_array([pa.repeat(pa.scalar(0, pa.int64()), products.num_rows)])
    column = products["created_at"]
    kind = column.type
    if not (pa.types.is_integer(kind) or pa.types.is_timestamp(kind) or pa.types.is_null(kind)):
        raise BadCatalogue(f"column created_at is {kind}, neither whole seconds since 1970 nor timestamps")
    if pa.types.is_timestamp(kind):
        column = pc.floor_temporal(column, unit="second").cast(pa.timestamp("s", kind.tz))
    seconds = column.cast(pa.int64()).fill_null(0)
    _refuse_first(pc.less(seconds, 0), "was created before 1970")
    _refuse_first(pc.greater(seconds, MAX_UNIX_S), "was created after the year 5138: seconds are meant")
    return seconds


def _is_list_of_text(given: pa.DataType) -> bool:
    return bool(pa.types.is_list(given) or pa.types.is_large_list(given)) and _may_become(given.value_type, _TEXT)


def _may_become(given: pa.DataType, wanted: pa.DataType) -> bool:
    if pa.types.is_dictionary(given):
        given = given.value_type
    if pa.types.is_null(given):
        return True
    if wanted == _TEXT:
        return bool(pa.types.is_string(given) or pa.types.is_large_string(given))
    if wanted == pa.uint64():
        return bool(pa.types.is_integer(given))
    if wanted == pa.float64():
        return bool(pa.types.is_floating(given) or pa.types.is_integer(given))
    return bool(pa.types.is_boolean(given))


def _refuse_first(bad: Any, why: str) -> None:
    row = pc.index(bad, True).as_py()
    if row >= 0:
        raise BadCatalogue(f"row {row} {why}")


def _coded(column: pa.Array) -> pa.DictionaryArray:
    """Dictionary-encoded with rising values, so that a category's subtree is one range of codes."""
    values = column.unique().sort()
    return pa.DictionaryArray.from_arrays(pc.index_in(column, value_set=values), values)


def _serialized(products: pa.Table) -> Iterator[bytes]:
    names = [name for name in CATALOGUE if name not in ("description", "revision")]
    for values in zip(*(products[name].to_pylist() for name in names), strict=True):
        product = types_pb2.Product(**dict(zip(names, values, strict=True))).SerializeToString()
        if len(product) > PRODUCT_BYTES:
            raise BadCatalogue(f"product {values[0]!r} has over {PRODUCT_BYTES} bytes without its description")
        yield product
