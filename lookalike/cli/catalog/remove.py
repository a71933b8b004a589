"""`lookalike catalog remove`: remove a product from what a gateway serves, or all that pass conditions."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence

from lookalike.cli import flags
from lookalike.cli.catalog.change import print_change
from lookalike.cli.search import as_dict
from lookalike.client import Client, FilterArguments
from lookalike.v1.catalog_pb2 import RemoveWhereResponse

_EXAMPLES = """\
examples:
  lookalike catalog remove p-17
  lookalike catalog remove --where --shop closed-shop --dry-run
  lookalike catalog remove --where --shop closed-shop
  lookalike catalog remove --where --category fashion --no-in-stock --yes

An older upsert does not bring a removed product back. With --where the products that pass are counted first, and
removed once that is confirmed, but for those with a newer revision.

exit status: 0 done, or a newer revision is stored already; 1 the service failed, or the removal was not confirmed;
2 an argument is wrong
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = _parser(environ)
    options = parser.parse_args(argv)
    conditions = flags.filter_arguments(options)
    if options.where == (options.id is not None):
        parser.error("give either ID, or --where and conditions")
    if not options.where and (conditions or options.dry_run):
        parser.error("conditions and --dry-run need --where")
    if options.where and not conditions:
        parser.error("--where: give at least one condition, such as --shop")
    with flags.open_client(options) as client:
        if options.where:
            return _remove_where(client, options, conditions)
        print_change(options, client.remove(options.id, revision=options.revision))
    return 0


def _remove_where(client: Client, options: argparse.Namespace, conditions: FilterArguments) -> int:
    counted = client.remove_where(dry_run=True, timeout_s=options.timeout_s, **conditions)
    if options.dry_run or not counted.matched:
        _print(options, counted, f"{counted.matched:,} products pass the conditions; none is removed")
        return 0
    if not options.yes and not _confirmed(counted.matched):
        print("nothing was removed", file=sys.stderr)
        return 1
    response = client.remove_where(revision=options.revision, **conditions)
    newer = response.matched - response.removed
    _print(options, response, f"{response.removed:,} products removed" + (f"; {newer:,} are newer" if newer else ""))
    return 0


def _confirmed(products: int) -> bool:
    """Whether the person at the terminal confirms the removal; where there is none, nobody does."""
    print(f"{products:,} products pass the conditions. Remove them? [y/N] ", end="", file=sys.stderr, flush=True)
    if not sys.stdin.isatty():
        print("\nstandard input is no terminal: confirm with --yes", file=sys.stderr)
        return False
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _print(options: argparse.Namespace, response: RemoveWhereResponse, summary: str) -> None:
    print(json.dumps(as_dict(response)) if options.json else summary)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    description = "Remove a product, or all products that pass conditions."
    parser = flags.command_parser("catalog remove", description, _EXAMPLES)
    parser.add_argument("id", metavar="ID", nargs="?", help="the product's id")
    parser.add_argument("--where", action="store_true", help="remove all products that pass these conditions")
    flags.add_filter_flags(parser.add_argument_group("conditions of --where"))
    parser.add_argument("--dry-run", action="store_true", help="with --where: only count the products")
    parser.add_argument("--yes", action="store_true", help="with --where: do not ask for a confirmation")
    flags.add_revision_flag(parser)
    flags.add_gateway_flags(parser, environ)
    return parser
