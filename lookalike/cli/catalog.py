"""`lookalike catalog upsert` and `remove`: change one product of the catalogue that a gateway serves."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lookalike.cli import flags, npy_files
from lookalike.cli.search import as_dict
from lookalike.client import Client
from lookalike.errors import InvalidRequest
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.catalog_pb2 import ChangeResponse
from lookalike.v1.types_pb2 import Product

UPSERT_EXAMPLES = """\
examples:
  lookalike catalog upsert p-17 --title "赤いスニーカー" --category fashion/shoes --price 4900 --in-stock --encode
  lookalike catalog upsert p-17 --title "赤いスニーカー" --image shoe.jpg --encode --revision 1764066600000
  lookalike catalog upsert p-17 --title "red sneakers" --vector image=photo.npy --tag colour:red

The product is replaced whole: it loses every attribute that is left out. Shards accept changes only if they were
started with --live-dir.

exit status: 0 done, or a newer revision is stored already; 1 the service failed; 2 an argument is wrong
"""
REMOVE_EXAMPLES = """\
example:
  lookalike catalog remove p-17

exit status: 0 done, or a newer revision is stored already; 1 the service failed; 2 an argument is wrong
"""


def upsert(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("upsert", "Add a product, or replace it whole.", UPSERT_EXAMPLES, environ)
    parser.add_argument("--title", default="")
    parser.add_argument("--description", default="")
    parser.add_argument("--category", default="", help="a path from broad to narrow: fashion/shoes")
    parser.add_argument("--shop", default="")
    parser.add_argument("--price", type=float, default=0.0)
    parser.add_argument("--currency", default="", help="ISO 4217: JPY")
    parser.add_argument("--in-stock", action="store_true")
    parser.add_argument("--url", default="")
    parser.add_argument("--tag", action="append", default=[], help="repeatable")
    parser.add_argument(
        "--vector",
        type=_parse_vector,
        action="append",
        default=[],
        metavar="SPACE=FILE.npy",
        help="the vector in one space; repeatable",
    )
    parser.add_argument("--encode", action="store_true", help="compute the other vectors from the title and the photo")
    parser.add_argument("--image", type=Path, metavar="FILE", help="the photo, for --encode")
    options = parser.parse_args(argv)
    product = Product(
        id=options.id,
        title=options.title,
        description=options.description,
        category=options.category,
        shop=options.shop,
        price=options.price,
        currency=options.currency,
        in_stock=options.in_stock,
        url=options.url,
        tags=options.tag,
    )
    return _send_change(
        options,
        lambda client: client.upsert(
            product, revision=options.revision, vectors=dict(options.vector), encode=options.encode, image=options.image
        ),
        _describe_spaces,
    )


def remove(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    description = "Remove a product. An older upsert does not bring it back."
    options = _parser("remove", description, REMOVE_EXAMPLES, environ).parse_args(argv)
    return _send_change(options, lambda client: client.remove(options.id, revision=options.revision))


def _describe_spaces(response: ChangeResponse) -> str:
    """In which spaces a search finds an upserted product."""
    spaces = ", ".join(space_name(space) for space in response.spaces)
    return f"; in the spaces: {spaces}" if spaces else "; it has no vector: no search finds it"


def _send_change(
    options: argparse.Namespace,
    change: Callable[[Client], ChangeResponse],
    describe: Callable[[ChangeResponse], str] = lambda response: "",
) -> int:
    try:
        with Client(options.address, timeout_s=options.timeout_s) as client:
            response = change(client)
    except InvalidRequest as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(as_dict(response), ensure_ascii=False))
    elif not response.applied:
        print(f"{options.id}: not changed: revision {options.revision} or a newer one is already stored")
    else:
        print(f"{options.id}: changed, revision {options.revision}{describe(response)}")
    return 0


def _parser(command: str, description: str, epilog: str, environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"lookalike catalog {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="ID", help="the product's id")
    parser.add_argument(
        "--revision",
        type=int,
        default=time.time_ns() // 1_000_000,
        help="revision of the change; the highest wins (default: now, in milliseconds since 1970)",
    )
    flags.add_gateway_flags(parser, environ)
    return parser


def _parse_vector(text: str) -> tuple[str, npt.NDArray[np.float32]]:
    space, _, path = text.partition("=")
    if space not in VECTOR_SPACES or not path:
        raise argparse.ArgumentTypeError(f"expected SPACE=FILE.npy with one of the spaces {', '.join(VECTOR_SPACES)}")
    try:
        return space, npy_files.read(Path(path)).reshape(-1).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from None
