"""`lookalike versions`: list the versions of an index location, let one serve, drop one. Reads and writes there."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from index.building.inspect import size
from index.storage.location import Location, located
from index.storage.manifest import Manifest
from lookalike.errors import BadArtifact, BadSettings

EPILOG = """examples:
  lookalike versions list index
  lookalike versions use index 5f2c9a0d1e7b3c48       go back: shards and gateways follow within seconds
  lookalike versions drop index 77aa01c3de529b10
  lookalike versions list s3://bucket/index --json

A shard that still serves a version reads its files: drop what all have left. Exit status 2: what was asked cannot be
done, and nothing is changed."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike versions",
        description="List the versions of an index, let one of them serve, or drop one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    steps = parser.add_subparsers(dest="step", required=True, metavar="list|use|drop")
    for step, help in (("list", "show them"), ("use", "let one serve"), ("drop", "remove one that does not serve")):
        words = steps.add_parser(step, help=help)
        words.add_argument("location", metavar="INDEX", help="directory or URL")
        if step == "list":
            words.add_argument("--json", action="store_true", help="print them as JSON")
        else:
            words.add_argument("version", metavar="NAME")
    options = parser.parse_args(argv)
    location = located(options.location)
    match options.step:
        case "list":
            _list(location, as_json=options.json)
        case "use":
            print(use(location, options.version))
        case "drop":
            drop(location, options.version)
            print(f"{location}: version {options.version} is dropped")
    return 0


def use(location: Location, name: str) -> str:
    """Let a version serve, if its manifest is whole; says what changed. Raises BadArtifact."""
    _refuse_unknown(location, name)
    location.read(name)
    before = _current(location)
    location.make_current(name)
    return f"{location}: version {name} serves" + (f"; before, it was {before}" if before else "")


def drop(location: Location, name: str) -> None:
    """Raises BadSettings for the version that serves, BadArtifact for one that is not here."""
    if name == _current(location):
        raise BadSettings(f"{location}: version {name} serves: let another one serve before it is dropped")
    _refuse_unknown(location, name)
    location.drop(name)


def _refuse_unknown(location: Location, name: str) -> None:
    if name not in (names := location.names()):
        raise BadArtifact(f"{location}: no version {name} here; there are: {', '.join(names) or 'none'}")


def _current(location: Location) -> str:
    """Empty where CURRENT is missing or damaged: `use` mends that."""
    try:
        return location.current()
    except BadArtifact:
        return ""


def _list(location: Location, *, as_json: bool) -> None:
    current, names = _current(location), location.names()
    versions = [_described(location, name, current) for name in names]
    if as_json:
        print(json.dumps(versions, indent=1))
        return
    console, table = Console(), Table("", "version", "products", "shards", "spaces", "size", "recall@10")
    for told in versions:
        mark = "serves" if told["current"] else ""
        if "damaged" in told:
            table.add_row(mark, told["version"], "damaged")
            continue
        spaces = " ".join(space["name"] for space in told["spaces"])
        recall = f"{told['recall_at_10']:.3f}" if told["spaces"] else "-"
        counts = (f"{told['products']:,}", str(told["shards"]), spaces, size(told["bytes"]), recall)
        table.add_row(mark, told["version"], *counts)
    console.print(table)
    for told in versions:
        if "damaged" in told:
            console.print(told["damaged"], markup=False, soft_wrap=True)


def _described(location: Location, name: str, current: str) -> dict[str, Any]:
    told: dict[str, Any] = {"version": name, "current": name == current}
    try:
        return told | _summary(location.read(name))
    except BadArtifact as error:  # Also while it is being uploaded: its manifest comes last.
        return told | {"damaged": str(error)}


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "products": sum(manifest.products),
        "shards": manifest.shards,
        "bytes": sum(file.bytes for file in manifest.files.values()),
        "spaces": [{"name": space.name, "dim": space.dim, "encoder": space.encoder} for space in manifest.spaces],
        "recall_at_10": min((i.recall_at_10 for space in manifest.spaces for i in space.indexes), default=None),
    }
