"""`lookalike search`: ask a gateway for similar products, printed as a table or as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from rich.console import Console

from lookalike.cli import batch, flags, render
from lookalike.client import example
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
  lookalike search --batch searches.jsonl > results.jsonl

exit status: 0 success, 1 the service failed, 2 an argument is wrong
"""

WIDE_TERMINAL = 100  # Columns; in a narrower terminal the table leaves out the shops, to have room for the titles.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser(environ)
    options = parser.parse_args(argv)
    if options.batch is not None:
        if options.sources:
            parser.error("--batch: the examples are in the file: leave out --product, --image, --text and --vector")
        return batch.run(options.batch, flags.open_client(options))
    with flags.open_client(options) as client:
        response = client.search(
            examples=_examples(parser, options),
            space=options.space,
            weights=options.weights,
            limit=options.limit,
            exclude_same_shop=options.exclude_same_shop,
            max_per_shop=options.max_per_shop,
            min_score=options.min_score,
            diversity=options.diversity,
            exact=options.exact,
            min_coverage=options.min_coverage,
            explain=options.explain,
            **flags.filter_arguments(options),
        )
    print_response(response, as_json=options.json, examples=[_name(*source) for source in options.sources])
    return 0


def print_response(response: SearchResponse, *, as_json: bool, examples: Sequence[str] = ()) -> None:
    """Print a response; `examples` is what to call those of the request, if there are several."""
    if as_json:
        print(json.dumps(as_dict(response), ensure_ascii=False))
        return
    console = Console()
    console.print(render.table(response, without=("shop",) if console.width < WIDE_TERMINAL else ()))
    if explained := render.contributions(response, examples):
        console.print(explained)
        console.print()
    if response.truncated:
        console.print(render.TRUNCATED)
    if response.HasField("threshold"):
        console.print(render.threshold(response.threshold))
    console.print(render.provenance(response.provenance))


def as_dict(message: Message) -> dict[str, Any]:
    """A message as a JSON object: the field names of the .proto files; fields without presence even when empty."""
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
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
        # All append to one list: weights belong to the examples in the order of the flags, whatever their kinds.
        source.add_argument(
            flag, metavar=metavar, dest="sources", action="append", type=_parse_source(kind), help=help, default=[]
        )
    source.add_argument(
        "--weight",
        type=float,
        action="append",
        default=[],
        help="one for each example, in their order; < 0: find hits unlike it",
    )
    source.add_argument(
        "--batch",
        metavar="FILE",
        help="many searches, all options in the file: a SearchRequest as JSON per line, - for standard input; "
        "prints a result per line",
    )
    spaces = parser.add_mutually_exclusive_group()
    spaces.add_argument(
        "--space", choices=tuple(SPACES), default="auto", help="the vector space (auto: chosen by the category)"
    )
    spaces.add_argument(
        "--weights", type=_parse_weights, metavar="SPACE=W,…", help="several spaces (late fusion): image=0.7,text=0.3"
    )
    parser.add_argument("--limit", type=int, help="most hits, 1..1000 (default: 10)")
    filters = parser.add_argument_group("which products may be hits")
    flags.add_filter_flags(filters)
    filters.add_argument("--exclude-same-shop", action="store_true", help="leave out products of the examples' shops")
    filters.add_argument("--max-per-shop", type=int, metavar="N", help="most hits of one shop, 1..1000")
    filters.add_argument("--min-score", type=float, metavar="S", help="-1..1: leave out hits that score less")
    parser.add_argument(
        "--diversity",
        type=float,
        default=0.0,
        metavar="D",
        help="0..1: prefer hits that differ from each other (default: 0)",
    )
    flags.add_search_flags(parser)
    flags.add_gateway_flags(parser, environ)
    return parser


def _parse_source(kind: str) -> Any:
    def parse(text: str) -> tuple[str, str]:
        return kind, text

    return parse


def _parse_weights(text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for entry in text.split(","):
        name, _, weight = entry.strip().partition("=")
        if name in weights:
            raise argparse.ArgumentTypeError(f"{name} has two weights")
        try:
            weights[name] = float(weight)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{entry!r} is not SPACE=WEIGHT, as in image=0.7,text=0.3") from None
    return weights


def _examples(parser: argparse.ArgumentParser, options: argparse.Namespace) -> list[Example]:
    if not options.sources:
        parser.error("give at least one of --product, --image, --text and --vector")
    if options.weight and len(options.weight) != len(options.sources):
        parser.error(f"{len(options.sources)} examples have {len(options.weight)} weights: give one for each, or none")
    weights = options.weight or [None] * len(options.sources)
    return [_example(kind, text, weight) for (kind, text), weight in zip(options.sources, weights, strict=True)]


def _name(kind: str, text: str) -> str:
    """What to call an example."""
    return Path(text).name if kind in ("image", "vector") else text


def _example(kind: str, text: str, weight: float | None) -> Example:
    match kind:
        case "image":
            return example(image=Path(text), weight=weight)
        case "vector":
            return example(vector=flags.read_vector(Path(text)), weight=weight)
        case "text":
            return example(text=text, weight=weight)
        case _:
            return example(product_id=text, weight=weight)
