"""Command-line flags that several commands share. Reads the vector files that they name."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import Parse, ParseError

from lookalike.cli import npy_files
from lookalike.client import FilterArguments
from lookalike.errors import InvalidRequest
from lookalike.timestamps import unix_s
from lookalike.v1.types_pb2 import Filter

DEFAULT_ADDRESS = "127.0.0.1:50051"


def add_filter_flags(filters: argparse._ArgumentGroup) -> None:
    """Add the flags that say which products may be hits; `filter_arguments` reads them."""
    filters.add_argument("--category", action="append", default=[], help="this category or one below it; repeatable")
    filters.add_argument("--not-category", action="append", default=[], help="repeatable")
    filters.add_argument("--shop", action="append", default=[], help="repeatable")
    filters.add_argument("--not-shop", action="append", default=[], help="repeatable")
    filters.add_argument("--min-price", type=float)
    filters.add_argument("--max-price", type=float)
    filters.add_argument("--in-stock", action="store_true", default=None)
    filters.add_argument("--tag", action="append", default=[], help="has this tag; repeatable: has all of them")
    filters.add_argument(
        "--any-tag", action="append", default=[], metavar="TAG", help="repeatable: has at least one of them"
    )
    filters.add_argument("--not-tag", action="append", default=[], metavar="TAG", help="repeatable: has none of them")
    filters.add_argument(
        "--created-after",
        type=_parse_time,
        metavar="TIME",
        help="2026-11-25, 2026-11-25T09:30+09:00, or seconds since 1970",
    )
    filters.add_argument(
        "--filter",
        type=_parse_filter,
        metavar="JSON",
        help="a Filter message as JSON, with AND, OR and NOT, that hits must pass, too",
    )


def filter_arguments(options: argparse.Namespace) -> FilterArguments:
    """The filter arguments of a search, from the flags of `add_filter_flags`."""
    return FilterArguments(
        category_in=options.category,
        category_not_in=options.not_category,
        shop_in=options.shop,
        shop_not_in=options.not_shop,
        min_price=options.min_price,
        max_price=options.max_price,
        in_stock=options.in_stock,
        created_after=options.created_after,
        tags_all=options.tag,
        tags_any=options.any_tag,
        tags_none=options.not_tag,
        all_of=[options.filter] if options.filter else [],
    )


def add_search_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags of how to search."""
    parser.add_argument(
        "--explain", action="store_true", help="show the score in each space, and each shard's search plan"
    )
    parser.add_argument("--exact", action="store_true", help="compare the query with every vector (brute force)")
    parser.add_argument("--min-coverage", type=float, help="0..1: fail if a smaller share of the vectors was searched")


def add_gateway_flags(parser: argparse.ArgumentParser, environ: Mapping[str, str]) -> None:
    """Add the flags of which gateway to call, and how to print the response."""
    address = environ.get("LOOKALIKE_ADDRESS", DEFAULT_ADDRESS)
    parser.add_argument("--address", default=address, help="the gateway [LOOKALIKE_ADDRESS, default: %(default)s]")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the whole response as JSON")


def _parse_time(text: str) -> int:
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
