"""`lookalike index inspect`: print what an index location holds, and verify its files. Reads files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from lookalike.releases.location import Location, open_location
from lookalike.releases.manifest import DuplicatesThreshold, Manifest, SpaceEntry, dump_manifest

EPILOG = """examples:
  lookalike index inspect index
  lookalike index inspect index --verify
  lookalike index inspect s3://bucket/index --version 5f2c9a0d1e7b3c48
  lookalike index inspect index --json | jq '.spaces[].indexes[].operating_points'

Exit status 2: there is no index, or it is damaged; the file is named."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike index inspect",
        description="Show the version that serves, or another; verify its files.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="INDEX", help="directory or URL")
    parser.add_argument("--version", default="", help="which version (default: the one that serves)")
    parser.add_argument("--verify", action="store_true", help="read every file and compare its checksum")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")
    options = parser.parse_args(argv)
    location = open_location(options.location)
    manifest = location.read_manifest(options.version or location.current())
    read_bytes = location.verify(manifest) if options.verify else None
    if options.json:
        print(json.dumps({**json.loads(dump_manifest(manifest)), "verified_bytes": read_bytes}, indent=1))
    else:
        _print_manifest(Console(), location, manifest, read_bytes)
    return 0


def _print_manifest(console: Console, location: Location, manifest: Manifest, read_bytes: int | None) -> None:
    stored = sum(file.bytes for file in manifest.files.values())
    console.print(f"{location}: version {manifest.version}, {sum(manifest.products)} products, {format_mib(stored)}")
    table = Table("shard", "space", "dim", "vectors", "encoder", "stored as", "index", "search parameter", "recall@10")
    for shard in range(manifest.shards):
        for space in manifest.spaces:
            table.add_row(*_table_row(shard, space))
    console.print(table)
    for space in manifest.spaces:
        if space.duplicates is not None:
            console.print(f"{space.name}: {describe_duplicates(space.duplicates)}", highlight=False, soft_wrap=True)
    if read_bytes is not None:
        console.print(f"verified: {len(manifest.files)} files, {format_mib(read_bytes)}")


def _table_row(shard: int, space: SpaceEntry) -> tuple[str, ...]:
    index = space.indexes[shard]
    search_parameter = str(index.operating_points[0].search_parameter) if index.operating_points else "-"
    cells = (str(shard), space.name, str(space.dim), str(space.documents[shard]), space.encoder, space.rescore)
    return (*cells, index.recipe, search_parameter, f"{index.recall_at_10:.3f}")


def describe_duplicates(threshold: DuplicatesThreshold) -> str:
    """The score from which products are near-duplicates, and what is known of it, as text."""
    return (
        f"duplicates from {threshold.min_score:.4g} (precision {threshold.precision:.3f}, recall "
        f"{threshold.recall:.3f}, {threshold.queries:,} queries by {threshold.measured_by})"
    )


def format_mib(size_bytes: int) -> str:
    return f"{size_bytes / (1 << 20):.1f} MiB"
