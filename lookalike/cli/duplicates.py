"""`lookalike duplicates`: products that are all but the same as one, by a gateway."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.cli import flags
from lookalike.cli.search import show
from lookalike.client import Client
from lookalike.errors import InvalidRequest
from lookalike.spaces import SPACES

EXAMPLES = """\
examples:
  lookalike duplicates --product p-17
  lookalike duplicates --product p-17 --exclude-same-shop --min-score 0.9
  lookalike duplicates --image shoe.jpg --category fashion --json
  lookalike duplicates --text "赤いスニーカー 24cm"

exit status: 0 answered, 1 the service could not answer, 2 the question is malformed
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    asked = _parser().parse_args(argv)
    try:
        with Client(asked.address, timeout_s=asked.timeout_s) as client:
            answer = client.find_duplicates(
                product_id=asked.product,
                image=asked.image,
                text=asked.text,
                vector=None if asked.vector is None else flags.vector_of(asked.vector),
                space=asked.space,
                min_score=asked.min_score,
                limit=asked.limit,
                exclude_same_shop=asked.exclude_same_shop,
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike duplicates",
        description="Ask a gateway for products that are all but the same as one.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    given = parser.add_argument_group("of what").add_mutually_exclusive_group(required=True)
    given.add_argument("--product", metavar="ID", help="a product of the catalogue")
    given.add_argument("--image", metavar="FILE", type=Path, help="a photo")
    given.add_argument("--text", metavar="TEXT", help="a title")
    given.add_argument("--vector", metavar="FILE.npy", type=Path, help="a vector of the space")
    parser.add_argument("--space", choices=tuple(SPACES), default="auto", help="auto: image; for a text: text")
    parser.add_argument("--min-score", type=float, metavar="S", help="how similar, -1..1; 0.95 unless given")
    parser.add_argument("--limit", type=int, help="most hits, 1..1000; 100 unless given")
    wanted = parser.add_argument_group("which products may be hits")
    flags.add_conditions(wanted)
    wanted.add_argument("--exclude-same-shop", action="store_true", help="leave out the example product's shop")
    flags.add_answer(parser)
    return parser
