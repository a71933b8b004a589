"""`lookalike versions show`: everything that is known of a release. Reads its manifest and its record."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table

from index.building.inspect import describe_duplicates, format_mib
from lookalike.errors import BadArtifact
from lookalike.releases.location import Location, open_location
from lookalike.releases.manifest import Manifest, SpaceEntry
from lookalike.releases.records import ReleaseRecord, read_record

EPILOG = """examples:
  lookalike versions show index                       the one that serves
  lookalike versions show index 5f2c9a0d1e7b3c48
  lookalike versions show s3://bucket/index --json | jq .record.gate

`lookalike index inspect --verify` reads and verifies all files. Exit status 2: there is no such version."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike versions show",
        description="Show a version: its spaces and encoders, what it was made of, and what became of it.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="INDEX", help="directory or URL")
    parser.add_argument("version", metavar="NAME", nargs="?", default="", help="default: the one that serves")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    options = parser.parse_args(argv)
    location = open_location(options.location)
    current = _current(location)
    manifest = location.read_manifest(options.version or location.current())
    record = read_record(location, manifest.version)
    if options.json:
        print(json.dumps(_as_json(manifest, record, current), indent=1, ensure_ascii=False))
    else:
        _print_release(Console(), manifest, record, current)
    return 0


def _current(location: Location) -> str:
    try:
        return location.current()
    except BadArtifact:
        return ""


def _as_json(manifest: Manifest, record: ReleaseRecord | None, current: str) -> dict[str, Any]:
    body = asdict(manifest)
    body["files"] = len(manifest.files)
    return {
        **body,
        "bytes": _size(manifest),
        "serves": manifest.version == current,
        "encoders": dict(manifest.encoders),
        "record": None if record is None else asdict(record),
    }


def _size(manifest: Manifest) -> int:
    return sum(file.bytes for file in manifest.files.values())


def _print_release(console: Console, manifest: Manifest, record: ReleaseRecord | None, current: str) -> None:
    serves = ", serves" if manifest.version == current else ""
    shards = f"{manifest.shards} shard{'s' if manifest.shards > 1 else ''}"
    console.print(
        f"version {manifest.version}{serves}: {sum(manifest.products):,} products, {shards}, "
        f"{format_mib(_size(manifest))}",
        highlight=False,
    )
    table = Table("space", "dim", "vectors", "encoder", "kept with it", "index", "recall@10")
    for space in manifest.spaces:
        table.add_row(*_space_row(manifest, space))
    console.print(table)
    for line in [*_manifest_lines(manifest), *([] if record is None else _record_lines(record))]:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _space_row(manifest: Manifest, space: SpaceEntry) -> tuple[str, ...]:
    recipes = sorted({index.recipe for index in space.indexes})
    recall = min((index.recall_at_10 for index in space.indexes), default=1.0)
    kept = "yes" if space.name in manifest.encoders else "no"
    counts = (str(space.dim), f"{sum(space.documents):,}")
    return (space.name, *counts, space.encoder, kept, " ".join(recipes), f"{recall:.3f}")


def _manifest_lines(manifest: Manifest) -> Iterator[str]:
    for space in manifest.spaces:
        if space.choice is not None:
            yield f"{space.name}: recipe {space.choice.recipe}: {space.choice.reason}"
        if space.duplicates is not None:
            yield f"{space.name}: {describe_duplicates(space.duplicates)}"
    if manifest.text_shares:
        shares = ", ".join(f"{name} {share:.2f}" for name, share in manifest.text_shares.items())
        yield f"words alone are searched in: {shares}"
    if (origin := manifest.origin) is not None:
        yield (
            f"made by {origin.software or 'an unknown program'} of {origin.catalogue} ({origin.digest}): "
            f"{origin.rows:,} rows, {origin.rejected:,} rejected"
        )
        if origin.image_model:
            yield f"photos were encoded by {origin.image_model}"


def _record_lines(record: ReleaseRecord) -> Iterator[str]:
    if record.made_at:
        yield f"made at {record.made_at}"
    if record.gate is not None:
        failed = [check for check in record.gate.get("checks", ()) if not check["passed"]]
        yield f"gate: {'passed' if not failed else f'{len(failed)} checks failed'}"
        for check in failed:
            accepted = " (accepted)" if check["name"] in record.accepted else ""
            yield f"  {check['name']}{accepted}: {check['sentence']}"
    for event in record.events:
        other = f", {'instead of' if event.what == 'published' else 'back to'} {event.other}" if event.other else ""
        yield f"{event.at} {event.what} by {event.by}{other}{f': {event.why}' if event.why else ''}"
