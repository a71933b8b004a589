"""`lookalike classify`: ask a gateway for the category of a product, a photo or a title."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lookalike.cli import flags, render
from lookalike.cli.search import as_dict

EXAMPLES = """\
examples:
  lookalike classify --product p-17
  lookalike classify --image shoe.jpg --text "赤いスニーカー" --precision 0.95
  lookalike classify --text "赤いスニーカー" --json

exit status: 0 success, with a category or without; 1 the service failed; 2 an argument is wrong
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser(environ)
    options = parser.parse_args(argv)
    if options.product is None and options.image is None and options.text is None:
        parser.error("give --product, or --image, --text or both")
    with flags.open_client(options) as client:
        response = client.classify(
            product_id=options.product,
            image=options.image,
            text=options.text,
            limit=options.limit,
            precision=options.precision,
        )
    if options.json:
        print(json.dumps(as_dict(response), ensure_ascii=False))
    else:
        console = Console()
        console.print(render.classification(response))
        console.print(render.classification_provenance(response))
    return 0


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike classify",
        description="Ask a gateway which category a product belongs to.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("what to classify: a product, or a photo, a text or both")
    source.add_argument("--product", metavar="ID", help="a product of the catalogue")
    source.add_argument("--image", metavar="FILE", type=Path, help="a photo")
    source.add_argument("--text", metavar="TEXT", help="a title")
    parser.add_argument(
        "--precision",
        type=float,
        help="0.5..0.99: required share of right answers; without enough certainty there is no category (default: 0.9)",
    )
    parser.add_argument("--limit", type=int, help="most categories shown, 1..100 (default: 5)")
    flags.add_gateway_flags(parser, environ)
    return parser
