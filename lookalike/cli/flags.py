"""Flags that the commands which search have in common. Reads the files that they name."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
from google.protobuf.json_format import Parse, ParseError

from lookalike.cli import npy_files
from lookalike.client import FilterArguments
from lookalike.errors import InvalidRequest
from lookalike.timestamps import unix_s
from lookalike.v1.types_pb2 import Filter


def add_conditions(wanted: argparse._ArgumentGroup) -> None:
    """Which products may be hits; `conditions_of` reads them."""
    wanted.add_argument("--category", action="append", default=[], help="this one and all below it; repeatable")
    wanted.add_argument("--not-category", action="append", default=[], help="repeatable")
    wanted.add_argument("--shop", action="append", default=[], help="repeatable")
    wanted.add_argument("--not-shop", action="append", default=[], help="repeatable")
    wanted.add_argument("--min-price", type=float)
    wanted.add_argument("--max-price", type=float)
    wanted.add_argument("--in-stock", action="store_true", default=None)
    wanted.add_argument("--tag", action="append", default=[], help="has this tag; repeatable: has them all")
    wanted.add_argument("--any-tag", action="append", default=[], metavar="TAG", help="repeatable: has one at least")
    wanted.add_argument("--not-tag", action="append", default=[], metavar="TAG", help="repeatable: has none of them")
    wanted.add_argument(
        "--created-after", type=_time, metavar="TIME", help="2026-11-25, 2026-11-25T09:30+09:00, or seconds since 1970"
    )
    wanted.add_argument(
        "--filter", type=_filter, metavar="JSON", help="a Filter of AND, OR and NOT, that must hold besides"
    )


def conditions_of(asked: argparse.Namespace) -> FilterArguments:
    return FilterArguments(
        category_in=asked.category,
        category_not_in=asked.not_category,
        shop_in=asked.shop,
        shop_not_in=asked.not_shop,
        min_price=asked.min_price,
        max_price=asked.max_price,
        in_stock=asked.in_stock,
        created_after=asked.created_after,
        tags_all=asked.tag,
        tags_any=asked.any_tag,
        tags_none=asked.not_tag,
        all_of=[asked.filter] if asked.filter else [],
    )


def add_answer(parser: argparse.ArgumentParser) -> None:
    """What is to be told, by whom and how."""
    parser.add_argument("--explain", action="store_true", help="show the score in each space, and how shards searched")
    parser.add_argument("--exact", action="store_true", help="compare with every vector")
    parser.add_argument("--min-coverage", type=float, help="0..1: searching less than this is an error")
    parser.add_argument("--address", default="127.0.0.1:50051", help="the gateway (default: %(default)s)")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="default: %(default)s")
    parser.add_argument("--json", action="store_true", help="print the whole answer as JSON")


def _time(text: str) -> int:
    try:
        return unix_s(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _filter(text: str) -> Filter:
    try:
        return Parse(text, Filter())
    except ParseError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def vector_of(path: Path) -> npt.NDArray[np.float32]:
    """One vector: of shape (dim,) or (1, dim). Raises InvalidRequest."""
    try:
        array = np.asarray(npy_files.read(path), dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise InvalidRequest("vector", f"{path}: {error}") from error
    return array[0] if array.ndim == 2 and len(array) == 1 else array
