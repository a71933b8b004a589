"""`lookalike catalog check`: reports the bad rows of a catalogue. Reads files."""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.cli.progress import progress_bar
from lookalike.errors import BadCatalogue
from pipeline.catalogue_report import CatalogueReport
from pipeline.photos import read_products
from pipeline.product import RejectedRow

_EPILOG = """\
examples:
  lookalike catalog check my-shop                every bad row: file, line, reason
  lookalike catalog check my-shop --strict       stop at the first, with exit status 2
  lookalike catalog check my-shop --json | jq .reasons
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    report, photos = CatalogueReport(strict=args.strict), 0
    with progress_bar("checking") as count:
        for item in read_products(args.directory):
            count()
            if isinstance(item, RejectedRow):
                report.reject(item)
            else:
                report.products += 1
                photos += item.photo is not None
    if args.json:
        rejects = [dataclasses.asdict(reject) for reject in report.rejects]
        print(json.dumps(report.as_json() | {"photos": photos, "rejects": rejects}, ensure_ascii=False, indent=1))
    else:
        print(f"{args.directory}: {report} ({photos:,} with a photo)")
    if not report.products:
        raise BadCatalogue(f"{args.directory}: no valid product in it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog check",
        description="Read a catalogue as `lookalike update` would, decode every photo, and report every bad row.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="the catalogue: products.jsonl, .csv or .parquet, and photos"
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first bad row, with exit status 2")
    parser.add_argument("--json", action="store_true", help="print the result, with every bad row, as JSON")
    return parser
