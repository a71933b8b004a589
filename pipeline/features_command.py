"""`lookalike features`: lists what a feature store holds, compacts it, drops an encoder. Does disk and network I/O."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from index.building.inspect import format_mib
from lookalike.errors import BadArtifact, BadSettings
from pipeline.features.compaction import GRACE_S, CompactionOptions
from pipeline.features.store import FeatureStore, Partition, PartitionStatus, parse_partition

EPILOG = """examples:
  lookalike features list index/.features
  lookalike features list s3://bucket/features --json | jq '.[] | select(.unusable != {})'
  lookalike features compact index/.features                          merge small parts, remove replaced ones
  lookalike features compact index/.features image/mobilenet-0a1b2c3d4e5f
  lookalike features drop index/.features text/hybrid-77aa01c3de52    an encoder that is no longer used

Listing, compacting and dropping are safe beside updates and workers. Vectors that are dropped are computed again where
they are needed. Exit status 2: the store cannot be read, or a part is of another version of Lookalike."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    options = _parser().parse_args(argv)
    notices: list[str] = []
    store = FeatureStore(options.store, notice=notices.append)
    stored = store.partitions()
    chosen = [parse_partition(options.partition)] if getattr(options, "partition", None) else stored
    for each in chosen:
        if each not in stored:
            names = ", ".join(map(str, stored)) or "nothing"
            raise BadArtifact(f"{store}: {each} is not stored here; there is {names}")
    match options.command:
        case "list":
            _list(store, chosen, as_json=options.json)
        case "compact":
            _compact(store, chosen, options)
        case "drop":
            store.drop(chosen[0])
            print(f"{store}: {chosen[0]} is dropped")
    for notice in notices:
        print(f"notice: {notice}", file=sys.stderr)
    return 0


def _list(store: FeatureStore, partitions: Sequence[Partition], *, as_json: bool) -> None:
    statuses = [store.status(each) for each in partitions]
    if as_json:
        print(json.dumps([asdict(status) for status in statuses], indent=1))
        return
    table = Table("kind", "encoder", "dim", "rows", "size", "parts", "replaced", "ignored files")
    for status in statuses:
        table.add_row(*_cells(status))
    Console().print(table)


def _cells(status: PartitionStatus) -> tuple[str, ...]:
    dim, replaced = str(status.dim or "-"), str(status.replaced_parts)
    counts = (f"{status.rows:,}", format_mib(status.bytes), f"{status.parts:,}", replaced, str(len(status.unusable)))
    return (status.kind, status.encoder or "-", dim, *counts)


def _compact(store: FeatureStore, partitions: Sequence[Partition], options: argparse.Namespace) -> None:
    if options.grace < 0:
        raise BadSettings(f"--grace {options.grace:g}: at least 0")
    reports = {str(each): store.compact(each, CompactionOptions(grace_s=options.grace)) for each in partitions}
    if options.json:
        print(json.dumps({name: asdict(report) for name, report in reports.items()}, indent=1))
        return
    for name, report in reports.items():
        print(
            f"{name}: {report.merged_parts:,} parts merged into {report.written_parts:,}, "
            f"{report.superseded_rows:,} superseded rows dropped, {report.removed_files:,} files removed"
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike features",
        description="Show and tidy a feature store: the vectors of photos and texts, and which photos were fetched.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|compact|drop")
    for command, help in (
        ("list", "what is stored, by kind and encoder"),
        ("compact", "merge small parts, drop superseded rows, remove replaced parts"),
        ("drop", "remove the vectors of one encoder, or the register of photos"),
    ):
        subparser = commands.add_parser(command, help=help)
        subparser.add_argument(
            "store", metavar="STORE", help="directory or URL: LOCATION/.features, or what --features named"
        )
        if command != "list":
            subparser.add_argument(
                "partition",
                metavar="KIND/ENCODER",
                nargs=None if command == "drop" else "?",
                help="as `list` shows them",
            )
        if command != "drop":
            subparser.add_argument("--json", action="store_true", help="print the result as JSON")
        if command == "compact":
            subparser.add_argument(
                "--grace",
                type=float,
                default=GRACE_S,
                metavar="SECONDS",
                help="age at which replaced parts and what killed writers left are removed (default %(default)g)",
            )
    return parser
