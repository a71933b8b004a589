"""`lookalike search`: one question to a gateway, answered as a table or as JSON."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

from lookalike.cli import flags, render
from lookalike.client import Client, example
from lookalike.errors import InvalidRequest
from lookalike.spaces import SPACES
from lookalike.v1.search_pb2 import Example, SearchResponse

EXAMPLES = """\
examples:
  lookalike search --product p-17
  lookalike search --image shoe.jpg --category fashion --in-stock --max-price 5000
  lookalike search --text "赤いスニーカー" --space text --limit 20
  lookalike search --product p-17 --tag colour:red --not-tag sale --created-after 2026-11-01
  lookalike search --product p-17 --filter '{"any_of": [{"tags_any": ["sale"]}, {"max_price": 1000}]}'
  lookalike search --product p-17 --product p-99 --weight 1 --weight 0.5
  lookalike search --image shoe.jpg --text "赤い" --weights image=0.7,text=0.3 --explain
  lookalike search --product p-17 --max-per-shop 1 --diversity 0.3
  lookalike search --vector query.npy --space image --exact --json

exit status: 0 answered, 1 the service could not answer, 2 the question is malformed
"""

WIDE = 100  # Columns; in a narrower terminal the titles need the room of the shops.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser()
    asked = parser.parse_args(argv)
    try:
        with Client(asked.address, timeout_s=asked.timeout_s) as client:
            answer = client.search(
                examples=_examples(parser, asked),
                space=asked.space,
                weights=asked.weights,
                limit=asked.limit,
                exclude_same_shop=asked.exclude_same_shop,
                max_per_shop=asked.max_per_shop,
                min_score=asked.min_score,
                diversity=asked.diversity,
                exact=asked.exact,
                min_coverage=asked.min_coverage,
                explain=asked.explain,
                **flags.conditions_of(asked),
            )
    except InvalidRequest as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(answer, as_json=asked.json)
    return 0


def show(answer: SearchResponse, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(as_dict(answer), ensure_ascii=False))
        return
    console = Console()
    console.print(render.table(answer, without=("shop",) if console.width < WIDE else ()))
    if answer.truncated:
        console.print(render.TRUNCATED)
    console.print(render.provenance(answer.provenance))


def as_dict(answer: Message) -> dict[str, Any]:
    """The message as JSON has it, under the names of the .proto files, and with every field of no presence."""
    return MessageToDict(answer, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike search",
        description="Ask a gateway for similar products.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("what to be similar to: at least one; several are mixed into one query")
    for flag, metavar, kind, help in (
        ("--product", "ID", "product_id", "a product of the catalogue"),
        ("--image", "FILE", "image", "a photo"),
        ("--text", "TEXT", "text", "a title or a phrase"),
        ("--vector", "FILE.npy", "vector", "a vector of the space, which must be named"),
    ):
        # All append to one list, so that each weight finds its example whatever kinds stand before it.
        source.add_argument(
            flag, metavar=metavar, dest="sources", action="append", type=_source(kind), help=help, default=[]
        )
    source.add_argument(
        "--weight", type=float, action="append", default=[], help="one for each example, in their order; < 0: unlike it"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--space", choices=tuple(SPACES), default="auto", help="how to be similar (auto: by category)")
    how.add_argument(
        "--weights", type=_weights, metavar="SPACE=W,…", help="in several ways at once: image=0.7,text=0.3"
    )
    parser.add_argument("--limit", type=int, help="most hits, 1..1000; 10 unless given")
    wanted = parser.add_argument_group("which products may be hits")
    flags.add_conditions(wanted)
    wanted.add_argument("--exclude-same-shop", action="store_true", help="leave out the example products' shops")
    wanted.add_argument("--max-per-shop", type=int, metavar="N", help="no more of one shop, 1..1000")
    wanted.add_argument("--min-score", type=float, metavar="S", help="-1..1: leave out hits that score less")
    parser.add_argument("--diversity", type=float, default=0.0, metavar="D", help="0..1: hits unlike each other")
    flags.add_answer(parser)
    return parser


def _source(kind: str) -> Any:
    def parsed(text: str) -> tuple[str, str]:
        return kind, text

    return parsed


def _weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for entry in text.split(","):
        name, _, weight = entry.strip().partition("=")
        if name in weights:
            raise argparse.ArgumentTypeError(f"{name} is there twice")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{entry!r} is not SPACE=WEIGHT, as in image=0.7,text=0.3") from None
    return weights


def _examples(parser: argparse.ArgumentParser, asked: argparse.Namespace) -> list[Example]:
    if not asked.sources:
        parser.error("give at least one of --product, --image, --text and --vector")
    if asked.weight and len(asked.weight) != len(asked.sources):
        parser.error(f"{len(asked.sources)} examples have {len(asked.weight)} weights: give each its own, or none")
    weights = asked.weight or [None] * len(asked.sources)
    return [_example(kind, text, weight) for (kind, text), weight in zip(asked.sources, weights, strict=True)]


def _example(kind: str, text: str, weight: float | None) -> Example:
    match kind:
        case "image":
            return example(image=Path(text), weight=weight)
        case "vector":
            return example(vector=flags.vector_of(Path(text)), weight=weight)
        case "text":
            return example(text=text, weight=weight)
        case _:
            return example(product_id=text, weight=weight)
