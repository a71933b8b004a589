"""`lookalike catalog export`: the products that a gateway serves, as a catalogue's file. Writes that file."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from lookalike.cli import flags
from lookalike.cli.progress import progress_bar
from lookalike.errors import OperatorError
from lookalike.product_rules import FIELDS
from lookalike.v1.types_pb2 import Product

_EXAMPLES = """\
examples:
  lookalike catalog export my-shop/products.jsonl
  lookalike catalog export fashion.jsonl --category fashion --in-stock
  jq -c '{patch: {id, price: (.price * 0.9)}}' fashion.jsonl | lookalike catalog write -

FILE has a product per line, as `lookalike update` and `lookalike catalog import` read it, with descriptions and
revisions, but without vectors and photos: paths of photos are as the catalogue states them. It is replaced only when
all products are written.

exit status: 0 success; 1 the service failed; 2 an argument is wrong, or the file cannot be written
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = flags.command_parser("catalog export", "Write all products to a file.", _EXAMPLES)
    parser.add_argument("file", type=Path, metavar="FILE.jsonl")
    flags.add_filter_flags(parser.add_argument_group("which products are written"))
    flags.add_gateway_flags(parser, environ)
    options = parser.parse_args(argv)
    conditions = flags.filter_arguments(options)
    written = 0
    with (
        flags.open_client(options) as client,
        _replacing(options.file) as file,
        progress_bar("exporting", total=client.count(**conditions)) as count,
    ):
        for product in client.list(descriptions=True, **conditions):
            file.write(json.dumps(row(product), ensure_ascii=False) + "\n")
            written += 1
            count()
    if options.json:
        print(json.dumps({"file": str(options.file), "products": written}, ensure_ascii=False))
    else:
        print(f"{options.file}: {written:,} products")
    return 0


def row(product: Product) -> dict[str, Any]:
    """A product as a row of a catalogue: the fields that are set."""
    fields = {name: getattr(product, name) for name in FIELDS}
    known = {name: value for name, value in fields.items() if value or name in ("price", "in_stock")}
    if not product.HasField("price"):
        del known["price"]
    return known | ({"tags": [*product.tags]} if product.tags else {})


@contextmanager
def _replacing(path: Path) -> Iterator[IO[str]]:
    """A file to write that takes the place of `path` at the end; after an error, `path` is as it was."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("w", encoding="utf-8") as file:
            try:
                yield file
                file.flush()
                os.fsync(file.fileno())
                part.replace(path)
            except BaseException:
                part.unlink()
                raise
    except OSError as error:
        raise OperatorError(f"{path}: {error.strerror}") from error
