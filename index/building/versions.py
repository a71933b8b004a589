"""`lookalike versions`: list the versions of an index location, try one, let one serve, drop one. Does I/O."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Column, Table

from index.building.inspect import describe_duplicates, format_mib
from lookalike.errors import BadArtifact, BadSettings
from lookalike.releases.location import Location, open_location
from lookalike.releases.manifest import DuplicatesThreshold, Manifest
from lookalike.releases.owner import owner_name
from lookalike.releases.serving_version import cut_over, require_version, serving, try_version
from lookalike.releases.version_change import current_manifest, tell_what_is_lost

EPILOG = """examples:
  lookalike versions list index
  lookalike versions use index 5f2c9a0d1e7b3c48       go back: shards and gateways follow within seconds
  lookalike versions canary index 5f2c9a0d1e7b3c48 --share 0.05      try it on a twentieth of searches
  lookalike versions canary index --off
  lookalike versions drop index 77aa01c3de529b10
  lookalike versions list s3://bucket/index --json

`lookalike versions show`, `diff`, `golden` and `gc` say more, and remove what nothing needs.
A shard that still serves a version reads its files: drop a version only when no shard serves it any more. Exit
status 2: the request cannot be carried out, and nothing is changed."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike versions",
        description="List the versions of an index, try one on some searches, let one serve, or drop one.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="list|canary|use|drop")
    for command, help in (
        ("list", "list all versions"),
        ("canary", "let a version answer a share of searches, beside the one that serves"),
        ("use", "let a version serve"),
        ("drop", "remove a version that does not serve"),
    ):
        subparser = commands.add_parser(command, help=help)
        subparser.add_argument("location", metavar="INDEX", help="directory or URL")
        if command == "list":
            subparser.add_argument("--json", action="store_true", help="print the versions as JSON")
        elif command == "canary":
            subparser.add_argument("version", metavar="NAME", nargs="?", help="the version; without it: which it is")
            subparser.add_argument(
                "--share", type=float, default=0.05, help="of searches, above 0 and at most 1 (default %(default)s)"
            )
            subparser.add_argument("--off", action="store_true", help="try none any more")
        else:
            subparser.add_argument("version", metavar="NAME")
    options = parser.parse_args(argv)
    location = open_location(options.location)
    match options.command:
        case "list":
            _list_versions(location, as_json=options.json)
        case "canary":
            print(_canary(location, options.version or "", share=options.share, off=options.off))
        case "use":
            before = current_manifest(location)
            print(use(location, options.version))
            tell_what_is_lost(before, location.read_manifest(options.version))
        case "drop":
            drop(location, options.version)
            print(f"{location}: version {options.version} is dropped")
    return 0


def _canary(location: Location, name: str, *, share: float, off: bool) -> str:
    """Say which version is tried, or change it; returns a sentence. Raises BadSettings, BadArtifact."""
    if off and name:
        raise BadSettings("--off: name no version with it")
    if off:
        location.set_canary(None)
        return f"{location}: no version is tried any more"
    if name:
        try_version(location, name, share)
    if (canary := location.canary()) is None:
        return f"{location}: no version is tried"
    return f"{location}: version {canary.version} answers {canary.share:g} of searches"


def use(location: Location, name: str) -> str:
    """Let a version serve, if its manifest is valid; returns a sentence on what changed. Raises BadArtifact."""
    before, problem = cut_over(location, name, by=owner_name(), why="versions use")
    if problem:
        print(f"notice: {problem}", file=sys.stderr)
    return f"{location}: version {name} serves" + (f"; before, it was {before}" if before else "")


def drop(location: Location, name: str) -> None:
    """Remove a version. Raises BadSettings for the one that serves, BadArtifact for one that does not exist."""
    if name == serving(location):
        raise BadSettings(f"{location}: version {name} serves: let another version serve before you drop it")
    if (canary := location.canary()) is not None and canary.version == name:
        raise BadSettings(
            f"{location}: version {name} is tried on some searches: `versions canary --off` before you drop it"
        )
    require_version(location, name)
    location.drop(name)


def _list_versions(location: Location, *, as_json: bool) -> None:
    current, names = serving(location), location.list_versions()
    versions = [_describe_version(location, name, current) for name in names]
    if as_json:
        print(json.dumps(versions, indent=1))
        return
    console, table = (
        Console(),
        Table("", Column("version", min_width=16, no_wrap=True), "products", "shards", "spaces", "size", "recall@10"),
    )
    for row in versions:
        mark = "serves" if row["current"] else ""
        if "damaged" in row:
            table.add_row(mark, row["version"], "damaged")
            continue
        spaces = " ".join(space["name"] for space in row["spaces"])
        recall = f"{row['recall_at_10']:.3f}" if row["spaces"] else "-"
        counts = (f"{row['products']:,}", str(row["shards"]), spaces, format_mib(row["bytes"]), recall)
        table.add_row(mark, row["version"], *counts)
    console.print(table)
    for row in versions:
        for space in row.get("spaces", ()):
            if space["duplicates"] is not None:
                described = describe_duplicates(DuplicatesThreshold(**space["duplicates"]))
                console.print(f"{row['version']}, {space['name']}: {described}", highlight=False, soft_wrap=True)
        if "damaged" in row:
            console.print(row["damaged"], markup=False, soft_wrap=True)


def _describe_version(location: Location, name: str, current: str) -> dict[str, Any]:
    row: dict[str, Any] = {"version": name, "current": name == current}
    try:
        return row | _summary(location.read_manifest(name))
    except BadArtifact as error:  # Also while it is being uploaded: its manifest comes last.
        return row | {"damaged": str(error)}


def _summary(manifest: Manifest) -> dict[str, Any]:
    return {
        "products": sum(manifest.products),
        "shards": manifest.shards,
        "bytes": sum(file.bytes for file in manifest.files.values()),
        "spaces": [
            {
                "name": space.name,
                "dim": space.dim,
                "encoder": space.encoder,
                "duplicates": space.duplicates and asdict(space.duplicates),
            }
            for space in manifest.spaces
        ],
        "recall_at_10": min((i.recall_at_10 for space in manifest.spaces for i in space.indexes), default=None),
    }
