"""`lookalike catalog upsert` and `patch`: change one product of the catalogue that a gateway serves."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.changes import set_fields
from lookalike.cli import flags, npy_files
from lookalike.cli.render import printable
from lookalike.cli.search import as_dict
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1.catalog_pb2 import ChangeResponse
from lookalike.v1.types_pb2 import Product

_UPSERT_EXAMPLES = """\
examples:
  lookalike catalog upsert p-17 --title "赤いスニーカー" --category fashion/shoes --price 4900 --currency JPY --encode
  lookalike catalog upsert p-17 --title "赤いスニーカー" --category fashion/shoes --image shoe.jpg --encode
  lookalike catalog upsert p-17 --title "red sneakers" --category fashion/shoes --vector image=photo.npy --tag red
  lookalike catalog upsert p-17 --title "red sneakers" --category fashion/shoes --no-in-stock --keep-vectors

The product is replaced whole: it loses every field that is left out, and with --keep-vectors no vector. To change only
some fields: lookalike catalog patch. Shards accept changes only if they were started with --live-dir.

exit status: 0 done, or a newer revision is stored already; 1 the service failed; 2 an argument is wrong
"""
_PATCH_EXAMPLES = """\
examples:
  lookalike catalog patch p-17 --price 4500 --no-in-stock
  lookalike catalog patch p-17 --clear price --tag sale --tag colour:red
  lookalike catalog patch p-17 --title "赤いスニーカー" --encode
  lookalike catalog patch p-17 --image shoe.jpg --image-path images/shoe.jpg --encode
  lookalike catalog patch p-17 --expires-at 2026-12-31T23:59+09:00

Everything that is left out stays as it is; --tag replaces all tags.

exit status: 0 done, or a newer revision is stored already; 1 the service failed, or there is no such product;
2 an argument is wrong
"""
_FIELDS = (
    *("title", "description", "category", "shop", "price", "currency", "in_stock"),
    *("image_path", "url", "tags", "created_at", "expires_at"),
)


def upsert(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("upsert", "Add a product, or replace it whole.", _UPSERT_EXAMPLES, environ)
    parser.add_argument(
        "--keep-vectors", action="store_true", help="keep the product's vectors that are neither given nor computed"
    )
    parser.add_argument(
        "--allow-unfindable", action="store_true", help="store the product even if it has no vector: no search finds it"
    )
    options = parser.parse_args(argv)
    product = Product(id=options.id)
    set_fields(product, _given_fields(options))
    with flags.open_client(options) as client:
        response = client.upsert(
            product,
            revision=options.revision,
            vectors=dict(options.vector),
            encode=options.encode,
            image=options.image,
            keep_vectors=options.keep_vectors,
            allow_unfindable=options.allow_unfindable,
        )
    print_change(options, response, f"; {_spaces(response)}")
    return 0


def patch(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser("patch", "Change some fields of a product.", _PATCH_EXAMPLES, environ)
    parser.add_argument(
        "--clear", action="append", default=[], choices=_FIELDS, metavar="FIELD", help="empty this field; repeatable"
    )
    options = parser.parse_args(argv)
    fields = _given_fields(options)
    if both := fields.keys() & {*options.clear}:
        parser.error(f"--clear {min(both)}: the field is given a value, too")
    fields |= dict.fromkeys(options.clear)
    with flags.open_client(options) as client:
        response = client.patch(
            options.id,
            revision=options.revision,
            vectors=dict(options.vector),
            encode=options.encode,
            image=options.image,
            **fields,
        )
    print_change(options, response, f"; {_spaces(response)}")
    return 0


def print_change(options: argparse.Namespace, response: ChangeResponse, result: str = "") -> None:
    """Print what came of the change of one product; `result` says more if it was applied."""
    if options.json:
        print(json.dumps(as_dict(response), ensure_ascii=False))
        return
    if response.applied:
        print(f"{options.id}: changed, revision {response.revision}{result}")
    else:
        print(
            f"{options.id}: not changed: revision {options.revision} is not above the stored one, {response.revision}"
        )
    for notice in response.notices:
        print(f"{options.id}: {printable(notice)}")


def _spaces(response: ChangeResponse) -> str:
    """In which spaces a search finds the product."""
    spaces = ", ".join(map(space_name, response.spaces))
    return f"in the spaces: {spaces}" if spaces else "it has no vector: no search finds it"


def _parser(command: str, description: str, epilog: str, environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = flags.command_parser(f"catalog {command}", description, epilog)
    parser.add_argument("id", metavar="ID", help="the product's id")
    fields = parser.add_argument_group("fields of the product")
    fields.add_argument("--title")
    fields.add_argument("--description")
    fields.add_argument("--category", help="a path from broad to narrow: fashion/shoes")
    fields.add_argument("--shop")
    fields.add_argument("--price", type=float, help="without it, the price is unknown" if command == "upsert" else None)
    fields.add_argument("--currency", help="ISO 4217: JPY")
    fields.add_argument("--in-stock", action=argparse.BooleanOptionalAction, help="unless stated, it is in stock")
    fields.add_argument("--image-path", metavar="PATH", help="path or URL of the photo, as the catalogue states it")
    fields.add_argument("--url")
    fields.add_argument("--tag", action="append", dest="tags", help="repeatable")
    fields.add_argument("--created-at", type=flags.parse_time, metavar="TIME", help=flags.TIME_HELP)
    fields.add_argument(
        "--expires-at", type=flags.parse_time, metavar="TIME", help="from then on no search finds the product"
    )
    vectors = parser.add_argument_group("vectors of the product")
    vectors.add_argument(
        "--vector",
        type=_parse_vector,
        action="append",
        default=[],
        metavar="SPACE=FILE.npy",
        help="the vector in one space; repeatable",
    )
    encoded = "the other vectors from the title and the photo" if command == "upsert" else "the vectors of what changes"
    vectors.add_argument("--encode", action="store_true", help=f"compute {encoded}")
    vectors.add_argument("--image", type=Path, metavar="FILE", help="the photo, for --encode; it is not stored")
    flags.add_revision_flag(parser)
    flags.add_gateway_flags(parser, environ)
    return parser


def _given_fields(options: argparse.Namespace) -> dict[str, Any]:
    return {name: value for name in _FIELDS if (value := getattr(options, name)) is not None}


def _parse_vector(text: str) -> tuple[str, npt.NDArray[np.float32]]:
    space, _, path = text.partition("=")
    if space not in VECTOR_SPACES or not path:
        raise argparse.ArgumentTypeError(f"expected SPACE=FILE.npy with one of the spaces {', '.join(VECTOR_SPACES)}")
    try:
        return space, npy_files.read(Path(path)).reshape(-1).astype(np.float32)
    except (ValueError, TypeError) as error:
        raise argparse.ArgumentTypeError(f"{path}: {error}") from None
