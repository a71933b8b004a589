"""`lookalike versions gc`: removes the versions of a location that nothing needs any more. Does I/O."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence

from index.building.versions import drop
from lookalike.errors import BadArtifact
from lookalike.releases.location import open_location
from lookalike.releases.retention import DEFAULT_KEEP
from pipeline.update.retain import removable

EPILOG = f"""examples:
  lookalike versions gc index --dry-run
  lookalike versions gc index --keep 7
  lookalike versions gc s3://bucket/index --pin 5f2c9a0d1e7b3c48

Kept are the version that serves, the one that it replaced, those that are pinned, the youngest --keep of the others
(default {DEFAULT_KEEP}), and those that no update has made. Exit status 2: nothing could be read, or removed."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike versions gc",
        description="Remove the versions that nothing needs any more.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="INDEX", help="directory or URL")
    parser.add_argument("--keep", type=int, default=DEFAULT_KEEP, metavar="N", help="versions, beside those that stay")
    parser.add_argument("--pin", action="append", default=[], metavar="NAME", help="keep this version; repeatable")
    parser.add_argument("--dry-run", action="store_true", help="say what would be removed, and remove nothing")
    parser.add_argument("--json", action="store_true", help="print the names as JSON")
    options = parser.parse_args(argv)
    if options.keep < 0:
        parser.error("--keep must not be negative")
    location = open_location(options.location)
    if unknown := sorted(set(options.pin) - set(location.list_versions())):
        raise BadArtifact(f"{location}: no version {unknown[0]} to pin")
    names = removable(location, keep=options.keep, pinned=options.pin)
    for name in names:
        if not options.dry_run:
            drop(location, name)
        if not options.json:
            print(f"{location}: version {name} {'would be' if options.dry_run else 'is'} removed")
    if options.json:
        print(json.dumps({"removed": [] if options.dry_run else names, "removable": names}))
    elif not names:
        print(f"{location}: nothing to remove")
    return 0
