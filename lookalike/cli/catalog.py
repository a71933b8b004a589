"""`lookalike catalog upsert` and `lookalike catalog remove`: one change of the catalogue that a gateway serves."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from lookalike.cli import npy_files
from lookalike.cli.search import as_dict
from lookalike.client import Client
from lookalike.errors import InvalidRequest
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.catalog_pb2 import ChangeResponse
from lookalike.v1.types_pb2 import Product

UPSERT = """\
examples:
  lookalike catalog upsert p-17 --title "赤いスニーカー" --category fashion/shoes --price 4900 --in-stock --encode
  lookalike catalog upsert p-17 --title "赤いスニーカー" --image shoe.jpg --encode --revision 1764066600000
  lookalike catalog upsert p-17 --title "red sneakers" --vector image=photo.npy --tag colour:red

The product is replaced whole: what is not given, it does not have. Shards take changes when they were started with
--live-dir.

exit status: 0 answered, also where a newer revision was known; 1 the service could not answer; 2 it is malformed
"""
REMOVE = """\
example:
  lookalike catalog remove p-17

exit status: 0 answered, also where a newer revision was known; 1 the service could not answer; 2 it is malformed
"""


def upsert(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("upsert", "Add a product, or replace it whole.", UPSERT)
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
        type=_vector,
        action="append",
        default=[],
        metavar="SPACE=FILE.npy",
        help="one for a space; repeatable",
    )
    parser.add_argument("--encode", action="store_true", help="make the other vectors of the title and the photo")
    parser.add_argument("--image", type=Path, metavar="FILE", help="the photo, for --encode")
    asked = parser.parse_args(argv)
    product = Product(
        id=asked.id,
        title=asked.title,
        description=asked.description,
        category=asked.category,
        shop=asked.shop,
        price=asked.price,
        currency=asked.currency,
        in_stock=asked.in_stock,
        url=asked.url,
        tags=asked.tag,
    )
    return _changed(
        asked,
        lambda client: client.upsert(
            product, revision=asked.revision, vectors=dict(asked.vector), encode=asked.encode, image=asked.image
        ),
        _spaces,
    )


def remove(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    asked = _parser("remove", "Remove a product. No older upsert brings it back.", REMOVE).parse_args(argv)
    return _changed(asked, lambda client: client.remove(asked.id, revision=asked.revision))


def _spaces(answer: ChangeResponse) -> str:
    """Where an upserted product is found."""
    spaces = ", ".join(space_name(space) for space in answer.spaces)
    return f"; in the spaces: {spaces}" if spaces else "; it has no vector: no search finds it"


def _changed(
    asked: argparse.Namespace,
    change: Callable[[Client], ChangeResponse],
    told: Callable[[ChangeResponse], str] = lambda answer: "",
) -> int:
    try:
        with Client(asked.address, timeout_s=asked.timeout_s) as client:
            answer = change(client)
    except InvalidRequest as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if asked.json:
        print(json.dumps(as_dict(answer), ensure_ascii=False))
    elif not answer.applied:
        print(f"{asked.id}: nothing changed: revision {asked.revision} or a newer one was known")
    else:
        print(f"{asked.id}: changed, revision {asked.revision}{told(answer)}")
    return 0


def _parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=f"lookalike catalog {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("id", metavar="ID", help="of the product")
    parser.add_argument(
        "--revision",
        type=int,
        default=time.time_ns() // 1_000_000,
        help="of the change; the newest wins (default: now, in milliseconds since 1970)",
    )
    parser.add_argument("--address", default="127.0.0.1:50051", help="the gateway (default: %(default)s)")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")
    return parser


def _vector(text: str) -> tuple[str, npt.NDArray[np.float32]]:
    space, _, path = text.partition("=")
    if space not in VECTOR_SPACES or not path:
        raise argparse.ArgumentTypeError(f"not SPACE=FILE.npy with a space of {', '.join(VECTOR_SPACES)}")
    try:
        return space, npy_files.read(Path(path)).reshape(-1).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from None
