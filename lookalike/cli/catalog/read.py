"""`lookalike catalog get` and `list`: show products of the catalogue that a gateway serves."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.text import Text

from lookalike.cli import flags, render
from lookalike.cli.search import as_dict

_GET_EXAMPLES = """\
examples:
  lookalike catalog get p-17
  lookalike catalog get p-17 --vectors --json | jq .vectors.image

exit status: 0 success; 1 there is no such product, or the service failed; 2 an argument is wrong
"""
_LIST_EXAMPLES = """\
examples:
  lookalike catalog list --category fashion --limit 20
  lookalike catalog list --no-has-price
  lookalike catalog list --after p-17
  lookalike catalog list --shop kutsuya --json | jq -r .id

exit status: 0 success; 1 the service failed; 2 an argument is wrong
"""
_TABLE_LIMIT = 100


def get(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = flags.command_parser("catalog get", "Show one product.", _GET_EXAMPLES)
    parser.add_argument("id", metavar="ID", help="the product's id")
    parser.add_argument("--vectors", action="store_true", help="show its vectors, too")
    flags.add_gateway_flags(parser, environ)
    options = parser.parse_args(argv)
    with flags.open_client(options) as client:
        product = client.get(options.id)
        vectors = client.vectors(options.id) if options.vectors else {}
    if options.json:
        lists = {space: vector.tolist() for space, vector in vectors.items()}
        print(json.dumps(as_dict(product) | ({"vectors": lists} if options.vectors else {}), ensure_ascii=False))
    else:
        Console().print(render.product_table(product, {space: len(vector) for space, vector in vectors.items()}))
    return 0


def list_products(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = flags.command_parser("catalog list", "List products, by rising id.", _LIST_EXAMPLES)
    parser.add_argument("--after", metavar="ID", default="", help="only products with a greater id")
    parser.add_argument("--limit", type=int, help=f"most products shown (default: {_TABLE_LIMIT}; with --json all)")
    flags.add_filter_flags(parser.add_argument_group("which products are listed"))
    flags.add_gateway_flags(parser, environ)
    options = parser.parse_args(argv)
    conditions = flags.filter_arguments(options)
    with flags.open_client(options) as client:
        if options.json:
            for product in client.list(after=options.after, limit=options.limit, **conditions):
                print(json.dumps(as_dict(product), ensure_ascii=False))
            return 0
        limit = _TABLE_LIMIT if options.limit is None else options.limit
        products = [*client.list(after=options.after, limit=limit + (limit > 0), **conditions)]
    console = Console()
    console.print(render.products_table(products[:limit]))
    if len(products) > limit:
        console.print(Text(f"there are more: --after {render.printable(products[limit - 1].id)}", "yellow"))
    return 0
