"""`lookalike catalog check`: reports the bad rows and photos of a catalogue. Reads files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from encoders.image.signature import DEFAULT_INPUT_PX
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadCatalogue
from pipeline import catalogue, catalogue_options
from pipeline.photos import PhotoSources, read_valid_products

_EPILOG = """\
examples:
  lookalike catalog check my-shop                every bad row and photo: file, line, reason
  lookalike catalog check my-shop --strict       stop at the first, with exit status 2
  lookalike catalog check my-shop --json | jq .reasons
"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    report = catalogue_options.new_report(args)
    table = catalogue.open_products(args.directory, catalogue_options.table_options(args))
    with progress_bar("checking") as count:
        for item in read_valid_products(
            PhotoSources(directory=args.directory), table, report, side_px=DEFAULT_INPUT_PX
        ):
            count()
            has_photo = item.photo is not None
            report.count_product(item.product, has_photo=has_photo, file=table.path.name, line=item.line)
    if args.json:
        print(json.dumps(report.as_json() | report.problems_as_json(), ensure_ascii=False, indent=1))
    else:
        print(f"{args.directory}: {report}")
    report.check_rejected()
    if not report.products:
        raise BadCatalogue(f"{args.directory}: no valid product in it")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog check",
        description="Read a catalogue as `lookalike update` would, decode every photo, and report every bad row and "
        "photo, and every product that no search would find.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "directory", type=Path, metavar="DIR", help="the catalogue: a products file (.jsonl, .csv, .xlsx, …) and photos"
    )
    catalogue_options.add_table_options(parser)
    catalogue_options.add_report_options(parser)
    parser.add_argument("--json", action="store_true", help="print the result, with every bad row and photo, as JSON")
    return parser
