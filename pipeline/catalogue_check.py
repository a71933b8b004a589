"""`lookalike catalog check`: report the bad rows of a catalogue. Reads files."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.cli.progress import counting
from lookalike.errors import BadCatalogue
from pipeline.catalogue_report import Report
from pipeline.photos import products
from pipeline.product import Reject

_EPILOG = """\
examples:
  lookalike catalog check my-shop                every bad row: file, line, reason
  lookalike catalog check my-shop --strict       stop at the first, with exit status 2
  lookalike catalog check my-shop --json | jq .reasons
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    report, photos = Report(strict=args.strict), 0
    with counting("checking") as count:
        for product in products(args.directory):
            count()
            if isinstance(product, Reject):
                report.reject(product)
            else:
                report.products += 1
                photos += product.photo is not None
    if args.json:
        rejects = [dataclasses.asdict(reject) for reject in report.rejects]
        print(json.dumps(report.as_json() | {"photos": photos, "rejects": rejects}, ensure_ascii=False, indent=1))
    else:
        print(f"{args.directory}: {report} ({photos:,} with a photo)")
    if not report.products:
        raise BadCatalogue(f"{args.directory}: no product in it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog check",
        description="Read a catalogue as `lookalike update` would, decode every photo, and tell of every bad row.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="holds products.jsonl, .csv or .parquet")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad row, with exit status 2")
    parser.add_argument("--json", action="store_true", help="print the result, with every bad row, as JSON")
    return parser
