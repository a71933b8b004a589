"""`lookalike duplicates`: ask a gateway for near-duplicates of one product."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.cli import flags
from lookalike.cli.search import print_response
from lookalike.spaces import SPACES

EXAMPLES = """\
examples:
  lookalike duplicates --product p-17
  lookalike duplicates --product p-17 --exclude-same-shop --min-score 0.9
  lookalike duplicates --image shoe.jpg --category fashion --json
  lookalike duplicates --text "赤いスニーカー 24cm"

exit status: 0 success, 1 the service failed, 2 an argument is wrong
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser(environ).parse_args(argv)
    with flags.open_client(options) as client:
        response = client.find_duplicates(
            product_id=options.product,
            image=options.image,
            text=options.text,
            vector=None if options.vector is None else flags.read_vector(options.vector),
            space=options.space,
            min_score=options.min_score,
            limit=options.limit,
            exclude_same_shop=options.exclude_same_shop,
            exact=options.exact,
            min_coverage=options.min_coverage,
            explain=options.explain,
            **flags.filter_arguments(options),
        )
    print_response(response, as_json=options.json)
    return 0


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike duplicates",
        description="Ask a gateway for near-duplicates of one product.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    source = parser.add_argument_group("what to find duplicates of: one of these").add_mutually_exclusive_group(
        required=True
    )
    source.add_argument("--product", metavar="ID", help="a product of the catalogue")
    source.add_argument("--image", metavar="FILE", type=Path, help="a photo")
    source.add_argument("--text", metavar="TEXT", help="a title")
    source.add_argument("--vector", metavar="FILE.npy", type=Path, help="a vector of the space")
    parser.add_argument("--space", choices=tuple(SPACES), default="auto", help="auto: image, or text for a text")
    parser.add_argument(
        "--min-score",
        type=float,
        metavar="S",
        help="least similarity, -1..1 (default: as measured for the space by the update; 0.95 if it was not)",
    )
    parser.add_argument("--limit", type=int, help="most hits, 1..1000 (default: 100)")
    filters = parser.add_argument_group("which products may be hits")
    flags.add_filter_flags(filters)
    filters.add_argument("--exclude-same-shop", action="store_true", help="leave out products of the example's shop")
    flags.add_search_flags(parser)
    flags.add_gateway_flags(parser, environ)
    return parser
