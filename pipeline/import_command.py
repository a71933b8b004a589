"""`lookalike catalog import`: its command line. Reads and writes files."""

from __future__ import annotations

import argparse
import json
import unicodedata
from collections.abc import Mapping, Sequence
from pathlib import Path

from lookalike.errors import BadSettings
from pipeline import catalogue_options
from pipeline.catalogue_import import ImportSource, import_catalogue
from pipeline.presets import PRESETS
from pipeline.tables.reader import SUFFIXES


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    args = _parser().parse_args(argv)
    source, report = _source(args), catalogue_options.new_report(args)
    import_catalogue(source, args.directory, report, limit=args.limit, quiet=False)
    if args.json:
        print(json.dumps(report.as_json() | report.problems_as_json(), ensure_ascii=False, indent=1))
    else:
        print(f"{args.directory}: {report}")
    return 0


def _source(args: argparse.Namespace) -> ImportSource:
    """What the options say is imported. Raises BadSettings for options that exclude each other or are out of bounds."""
    if args.no_header != bool(args.columns):
        raise BadSettings(
            "--no-header and --columns must be given together: a table without a header line needs column names"
        )
    if args.limit is not None and args.limit < 1:
        raise BadSettings(f"--limit {args.limit}: must be 1 or more")
    preset = PRESETS[args.preset] if args.preset else None
    mapping = catalogue_options.column_mapping(args, base=preset.mapping if preset else None, group=args.group)
    names = (unicodedata.normalize("NFC", name.strip()) for name in args.columns.split(","))
    return ImportSource(
        table=args.source,
        mapping=mapping,
        match_loosely=preset is not None,
        options=catalogue_options.table_options(
            args, columns=tuple(name for name in names if name), usual_encoding=preset.encoding if preset else ""
        ),
        images=args.images,
        require_image=args.require_image,
    )


_EPILOG = """\
examples:
  lookalike catalog import shop.csv my-shop --field id=sku --field title=brand,name --field category=department,kind
      --field price=price --set currency=JPY --images photos/ --image '{sku}.jpg'
      --field 'tags={gender},colour:{shade},labels'
  lookalike catalog import names.csv.gz my-shop --no-header --columns id,title,tree --field title=title
      --field category=tree --category-separator ' >> ' --category-depth 3 --limit 1000
  lookalike catalog import products_export.csv my-shop --preset shopify --set currency=USD --max-rejected 1%
  lookalike catalog import shop.zip my-shop --field title=name --field category=kind --image '{photo}'
      --where 'status=active' --group model --tags-separator ,
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike catalog import",
        description="Make a catalogue of a table, and photos in a folder or an archive. Bad rows are reported and "
        "skipped; a product whose photo cannot be used is kept without it. The column called id is the product's id "
        "unless --field says otherwise.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    kinds = ", ".join(SUFFIXES)
    add("source", type=Path, metavar="SOURCE", help=f"{kinds} (text files also .gz), or a .zip of one with its photos")
    add("directory", type=Path, metavar="DIR", help="the new catalogue; must be empty or not exist")
    add("--preset", choices=sorted(PRESETS), help="the export of a shop system; the other options change its mapping")
    catalogue_options.add_mapping_options(parser)
    add("--group", default="", metavar="COLUMN", help="make one product of all rows with the same value: its variants")
    add("--images", type=Path, metavar="PATH", help="photos: a folder, or a .tar, .tar.gz, .tar.xz or .zip file")
    add("--require-image", action="store_true", help="skip rows whose photo cannot be used")
    add("--no-header", action="store_true", help="the table has no header: its first line is a product")
    add("--columns", default="", metavar="A,B,…", help="the column names, with --no-header")
    add("--limit", type=int, metavar="N", help="only the first N products")
    catalogue_options.add_table_options(parser)
    catalogue_options.add_report_options(parser)
    add("--json", action="store_true", help="print the result, with every bad row, photo and URL of a photo, as JSON")
    return parser
