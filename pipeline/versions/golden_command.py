"""`lookalike versions golden`: golden queries from a release, which the gate holds the next ones against. Does I/O."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.errors import OperatorError
from lookalike.releases.location import open_location
from pipeline.gate.golden import make_golden
from pipeline.versions.local_releases import local_copy

EPILOG = """examples:
  lookalike versions golden index --out golden.jsonl
  lookalike versions golden s3://bucket/index --version 5f2c9a0d1e7b3c48 --count 300 --out golden.jsonl

One query a line, with what it finds: edit it, add what must be found, and what must not. docs/releases.md says how.
Exit status 2: there is no such version, or the file exists already."""
_HEADER = (
    "# Golden queries of version {version}: what each must find among its k nearest. A line like this is a comment."
)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    parser = argparse.ArgumentParser(
        prog="lookalike versions golden",
        description="Write examples of as many categories as there are, with what a version finds.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", metavar="INDEX", help="directory or URL")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the JSON Lines file to write")
    parser.add_argument("--count", type=int, default=100, metavar="N", help="queries (default 100)")
    parser.add_argument("--version", default="", metavar="NAME", help="which version (default: the one that serves)")
    parser.add_argument("--seed", type=int, default=0, help="of the choice of products (default 0)")
    options = parser.parse_args(argv)
    if options.count < 1:
        parser.error("--count must be at least 1")
    location = open_location(options.location)
    name = options.version or location.current()
    with local_copy(location, name) as (release,):
        lines = make_golden(release, options.count, options.seed)
    if not lines:
        raise OperatorError(f"{location}: no product of version {name} has a neighbour")
    try:
        with options.out.open("x", encoding="utf-8") as file:  # What was edited by hand is not overwritten.
            file.writelines(f"{line}\n" for line in [_HEADER.format(version=name), *lines])
    except OSError as error:
        raise OperatorError(f"{options.out}: {error.strerror}") from error
    print(f"{options.out}: {len(lines)} golden queries of version {name}")
    return 0
