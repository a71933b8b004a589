"""Bytes of a product beside its vectors: the table on disk, the memory of its reader, the write-ahead log. CPU only.

The table of a shard is written and opened with the products of a catalogue's file (JSON lines, as `catalog check`
reads), repeated under other ids, in two sizes, so that what grows with the products can be told from what does not. A
reader's memory is RssAnon of a process of its own, before and after it opens the table and reads every filter column.
The log has 1,000 changes of each kind, one a write as with one call in flight, and in writes of 64.

    python -m benchmarks.product_bytes PRODUCTS.jsonl [--counts 20000 80000] [--dims 1024 256 256]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.json

from benchmarks.meter import write
from index.live.write_ahead_log import WriteAheadLog
from index.storage.attributes import open_attributes, validate_products, write_products
from lookalike.v1.index_pb2 import LogRecord, Patch, Update, Upsert
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Product, SpaceVector

CHANGES = 1_000
SPACES = (SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT)


def main() -> None:
    if sys.argv[1] == "--open":
        print(opened_bytes(Path(sys.argv[2])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("products", type=Path)
    parser.add_argument("--counts", type=int, nargs=2, default=(20_000, 80_000))
    parser.add_argument(
        "--dims", type=int, nargs=3, default=(1024, 256, 256), help="of image, text and product vectors"
    )
    options = parser.parse_args()
    products = pa.json.read_json(options.products)
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        tables = {count: measure_table(Path(folder), products, count) for count in options.counts}
        log = measure_log(Path(folder), tables[options.counts[0]]["sample"], options.dims)
    for row in tables.values():
        del row["sample"]
    (few, small), (many, large) = tables.items()
    growth = {
        name: round((large[name] - small[name]) / (many - few), 2) for name in ("file_bytes", "reader_anonymous_bytes")
    }
    result = {
        "products": f"{options.products.name}, repeated; titles, descriptions, prices and tags as they are",
        "tables": {str(count): row for count, row in tables.items()},
        "per_product": growth,
        "log_bytes_per_change": log,
        "dims": options.dims,
    }
    print(write("product_bytes", result))


def measure_table(folder: Path, products: pa.Table, count: int) -> dict[str, Any]:
    repeated = pa.concat_tables([products] * -(-count // len(products))).slice(0, count)
    column = repeated.schema.get_field_index("id")
    ids = pa.array([f"{row:012}" for row in range(count)])
    table = validate_products(repeated.set_column(column, "id", ids))
    path = folder / f"{count}.arrow"
    write_products(path, table)
    opened = subprocess.run(  # noqa: S603  # this script
        [sys.executable, "-m", "benchmarks.product_bytes", "--open", str(path)],
        capture_output=True,
        text=True,
        check=True,
    )
    stored = open_attributes(path).products
    sample = [stored[row] for row in range(CHANGES)]
    return {"file_bytes": path.stat().st_size, "reader_anonymous_bytes": int(opened.stdout), "sample": sample}


def opened_bytes(path: Path) -> int:
    """What opening a table and reading what filters read adds to this process's own memory."""
    before = _own_bytes()
    attributes = open_attributes(path)
    codes = (
        attributes.category_codes,
        attributes.shop_codes,
        attributes.prices,
        attributes.created,
        attributes.tag_codes,
    )
    for column in (*codes, attributes.in_stock, attributes.revisions, attributes.currency_codes):
        column.sum()
    len(attributes.expiries[0])
    return _own_bytes() - before


def _own_bytes() -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) << 10


def measure_log(folder: Path, sample: Sequence[bytes], dims: Sequence[int]) -> dict[str, float]:
    vectors = [
        SpaceVector(space=space, vector=np.ones(dim, "<f4").tobytes()) for space, dim in zip(SPACES, dims, strict=True)
    ]
    products = [Product.FromString(each) for each in sample]
    kinds = {
        "upsert": [Update(revision=1, upsert=Upsert(product=each, vectors=vectors)) for each in products],
        "patch of price and stock": [
            Update(
                revision=1,
                patch=Patch(product=Product(id=each.id, price=990, in_stock=True), fields=["price", "in_stock"]),
            )
            for each in products
        ],
        "remove": [Update(revision=1, remove=each.id) for each in products],
    }
    measured = {}
    for kind, updates in kinds.items():
        for batch in (1, 64):
            log = WriteAheadLog.create(folder / f"{kind}-{batch}")
            before = log.size
            for start in range(0, len(updates), batch):
                log.append(LogRecord(updates=updates[start : start + batch]).SerializeToString())
            measured[f"{kind}, {batch} a write"] = round((log.size - before) / len(updates), 1)
            log.close()
    return measured


if __name__ == "__main__":
    main()
