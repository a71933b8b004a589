"""`lookalike catalog reencode`: encodes anew what changed while an update ran. Network I/O to gateways; reads files."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from lookalike.cli import flags
from lookalike.errors import BadSettings, Unavailable
from lookalike.releases.location import Directory, open_location
from pipeline.reencode import BuiltProducts, ReencodeOptions, ReencodeReport, reencode_served

_EPILOG = """\
examples:
  lookalike catalog reencode index --gateway gateway:50051
  lookalike catalog reencode s3://bucket/index --staging work --gateway gateway-0:50051 --gateway gateway-1:50051

After a `lookalike update` that was given no gateway; with one it does this itself. It waits until the gateways serve
the new version, and until their encoders are those of the version. Repeating it is harmless.

exit status: 0 all of them are encoded; 1 some are not: the message says why; 2 an argument is wrong
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser(environ).parse_args(argv)
    location = open_location(args.location)
    directory = location.path if isinstance(location, Directory) else args.staging
    if directory is None:
        raise BadSettings(f"--staging is not given: the directory in which `update` built the version of {location}")
    name = location.current()
    options = ReencodeOptions(wait_s=args.wait_s, settle_s=args.settle_s, api_key=flags.api_key(args))
    report = asyncio.run(reencode_served(args.gateway, BuiltProducts(directory, name), name, options))
    print(json.dumps(asdict(report), indent=1) if args.json else _summary(report))
    if failed := report.failed.total():
        raise Unavailable(
            f"{failed:,} of {report.changed:,} products are not encoded anew: {next(iter(report.failed))}; "
            "run this command again"
        )
    return 0


def _summary(report: ReencodeReport) -> str:
    lines = [f"{report.changed:,} products changed since the version was built: {report.encoded:,} encoded anew"]
    if report.enqueued:
        lines.append(f"  left to workers, for their photos: {report.enqueued:,}")
    if report.gone:
        lines.append(f"  removed meanwhile, or without words and photo: {report.gone:,}")
    lines += [f"  not encoded: {count:,}: {reason}" for reason, count in report.failed.most_common()]
    return "\n".join(lines)


def _parser(environ: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog reencode",
        description="Encode anew the products whose words or photo changed while an update ran, by the encoders of the "
        "version that it published.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("location", metavar="LOCATION", help="directory or URL of the index that the gateways serve")
    add("--staging", type=Path, metavar="DIR", help="directory that the version was built in, if LOCATION is a URL")
    add(
        "--gateway",
        action="append",
        required=True,
        metavar="HOST:PORT",
        help="a gateway; repeatable: all that take changes, of which the first is asked to encode",
    )
    add(
        "--wait-s",
        type=float,
        default=ReencodeOptions.wait_s,
        metavar="S",
        help="how long to wait for the version, and for encoders while none can encode (default %(default)s)",
    )
    add(
        "--settle-s",
        type=float,
        default=ReencodeOptions.settle_s,
        metavar="S",
        help="time for calls to end that began with the version before (default %(default)s)",
    )
    flags.add_key_flag(parser, environ)
    add("--json", action="store_true", help="print the report as JSON")
    return parser
