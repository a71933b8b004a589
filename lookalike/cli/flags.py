"""Command-line flags that several commands share. Reads the vector files that they name."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import Parse, ParseError

from lookalike.cli import npy_files
from lookalike.client import Client, FilterArguments
from lookalike.credentials import ApiKey, key_of
from lookalike.errors import InvalidRequest
from lookalike.timestamps import unix_s
from lookalike.v1.types_pb2 import Filter

DEFAULT_ADDRESS = "127.0.0.1:50051"
TIME_HELP = "2026-11-25, 2026-11-25T09:30+09:00, or seconds since 1970"


def command_parser(command: str, description: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of a command's arguments. `epilog`: examples and exit statuses."""
    return argparse.ArgumentParser(
        prog=f"lookalike {command}",
        description=description,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_filter_flags(filters: argparse._ArgumentGroup) -> None:
    """Add the flags that say which products pass; `filter_arguments` reads them."""
    filters.add_argument("--category", action="append", default=[], help="this category or one below it; repeatable")
    filters.add_argument("--not-category", action="append", default=[], help="repeatable")
    filters.add_argument("--shop", action="append", default=[], help="repeatable")
    filters.add_argument("--not-shop", action="append", default=[], help="repeatable")
    filters.add_argument("--min-price", type=float, help="a product of unknown price does not pass")
    filters.add_argument("--max-price", type=float, help="the same")
    filters.add_argument("--currency", action="append", default=[], help="of the price: JPY; repeatable")
    filters.add_argument("--has-price", action=argparse.BooleanOptionalAction, help="whether the price is known")
    filters.add_argument("--in-stock", action=argparse.BooleanOptionalAction, help="whether it is in stock")
    filters.add_argument("--tag", action="append", default=[], help="has this tag; repeatable: has all of them")
    filters.add_argument(
        "--any-tag", action="append", default=[], metavar="TAG", help="repeatable: has at least one of them"
    )
    filters.add_argument("--not-tag", action="append", default=[], metavar="TAG", help="repeatable: has none of them")
    filters.add_argument(
        "--created-after",
        type=parse_time,
        metavar="TIME",
        help=TIME_HELP,
    )
    filters.add_argument(
        "--filter",
        type=_parse_filter,
        metavar="JSON",
        help="a Filter message as JSON, with AND, OR and NOT, that products must pass, too",
    )


def filter_arguments(options: argparse.Namespace) -> FilterArguments:
    """The conditions of the flags of `add_filter_flags`; empty if none is given."""
    given = {
        "category_in": options.category,
        "category_not_in": options.not_category,
        "shop_in": options.shop,
        "shop_not_in": options.not_shop,
        "currency_in": options.currency,
        "min_price": options.min_price,
        "max_price": options.max_price,
        "has_price": options.has_price,
        "in_stock": options.in_stock,
        "created_after": options.created_after,
        "tags_all": options.tag,
        "tags_any": options.any_tag,
        "tags_none": options.not_tag,
        "all_of": [options.filter] if options.filter else [],
    }
    return cast(FilterArguments, {name: value for name, value in given.items() if value not in (None, [])})


def add_revision_flag(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--revision",
        type=int,
        default=time.time_ns() // 1_000_000,
        help="revision of the change; the highest wins (default: now, in milliseconds since 1970)",
    )


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how to search."""
    parser.add_argument(
        "--explain",
        action="store_true",
        help="show the score in each space, what words, photos and examples contributed, and each shard's search plan",
    )
    parser.add_argument("--exact", action="store_true", help="compare the query with every vector (brute force)")
    parser.add_argument("--min-coverage", type=float, help="0..1: fail if a smaller share of the vectors was searched")


def add_gateway_flags(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the flags of which gateway to call, and how to print the response."""
    address = environ.get("LOOKALIKE_ADDRESS", DEFAULT_ADDRESS)
    parser.add_argument("--address", default=address, help="the gateway [LOOKALIKE_ADDRESS, default: %(default)s]")
    add_key_flag(parser, environ)
    parser.add_argument("--timeout-s", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the whole response as JSON")


def add_key_flag(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the flag of the API key; `api_key` reads it. The key itself is no argument: others could see it."""
    parser.set_defaults(api_key=environ.get("LOOKALIKE_API_KEY", ""))
    parser.add_argument(
        "--api-key-file",
        metavar="FILE",
        default=environ.get("LOOKALIKE_API_KEY_FILE") or None,
        help="the API key to call with [LOOKALIKE_API_KEY_FILE; the key itself: LOOKALIKE_API_KEY]",
    )


def api_key(options: argparse.Namespace) -> ApiKey | None:
    """The key of the flags of `add_key_flag`, or the environment; the file goes first. Raises BadSettings."""
    return key_of("" if options.api_key_file else options.api_key, options.api_key_file)


def open_client(options: argparse.Namespace) -> Client:
    """A client of the gateway that the flags of `add_gateway_flags` name."""
    return Client(options.address, timeout_s=options.timeout_s, api_key=api_key(options))


def parse_time(text: str) -> int:
    """An argparse `type`: seconds since 1970."""
    try:
        return unix_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parse_filter(text: str) -> Filter:
    try:
        return Parse(text, Filter())
    except ParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_vector(path: Path) -> npt.NDArray[np.float32]:
    """The vector in a .npy file of shape (dim,) or (1, dim). Raises InvalidRequest."""
    try:
        array = np.asarray(npy_files.read(path), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InvalidRequest("vector", f"{path}: {error}") from error
    return array[0] if array.ndim == 2 and len(array) == 1 else array
