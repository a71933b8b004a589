"""The command-line options that reading a catalogue and importing one share. Pure."""

from __future__ import annotations

import argparse

from lookalike.product_rules import DEFAULT_REVISION_UNIT, REVISION_UNITS
from pipeline.catalogue_report import CatalogueReport, parse_max_rejected
from pipeline.column_mapping import ColumnMapping, parse_mapping
from pipeline.tables.delimiter import check_delimiter
from pipeline.tables.encoding import check_encoding
from pipeline.tables.reader import TableOptions


def add_table_options(parser: argparse.ArgumentParser) -> None:
    """Add how a table is read, where its file does not tell."""
    add = parser.add_argument
    add(
        "--encoding",
        default="",
        metavar="NAME",
        help="of a text file: cp932 (Shift-JIS), euc_jp, utf-16, … (default: its byte order mark's, else UTF-8)",
    )
    add(
        "--delimiter",
        default="",
        metavar="C",
        help="between the columns of CSV: ';', tab, … (default: that of a line sep=C, else by the header)",
    )
    add("--sheet", default="", metavar="NAME", help="the sheet of an .xlsx file (default: the first)")
    add_revision_option(parser)


def add_revision_option(parser: argparse.ArgumentParser) -> None:
    """Add the unit of revisions."""
    parser.add_argument(
        "--revision-unit",
        choices=REVISION_UNITS,
        default=DEFAULT_REVISION_UNIT,
        help="unit of the revisions, times since 1970; none: they are no times. A row with one that is more than a day "
        "ahead of now is bad (default %(default)s)",
    )


def add_mapping_options(parser: argparse.ArgumentParser) -> None:
    """Add how the columns of a table from elsewhere map to the fields of a product."""
    add = parser.add_argument
    add(
        "--field",
        action="append",
        default=[],
        metavar="FIELD=COLUMN[,COLUMN…]",
        help="the columns that a field is made of; for tags: column or 'colour:{column}'",
    )
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help="one value for every product")
    add(
        "--where",
        action="append",
        default=[],
        metavar="COLUMN=VALUE",
        help="only rows with this value (COLUMN!=VALUE: without it); several: all must hold",
    )
    add("--category-separator", metavar="TEXT", help="separates the parts of a category in its column (default /)")
    add("--category-prefix", metavar="NAME", help="put every category below this one")
    add("--category-depth", type=int, metavar="N", help="keep the first N parts of a category")
    add("--default-category", metavar="NAME", help="the category of products that state none (default: a bad row)")
    add("--tags-separator", metavar="TEXT", help="separates the tags in a column (default |)")
    add("--decimal-sign", metavar="C", help="of prices such as 1.299: . or , (default .)")
    add("--strip-html", action="store_true", help="remove markup from titles and descriptions")
    add("--image", metavar="NAME", help="file name or URL of a photo, with columns in braces: '{id}.jpg'")


def column_mapping(args: argparse.Namespace, *, base: ColumnMapping | None = None, group: str = "") -> ColumnMapping:
    """The mapping by the options of `add_mapping_options`, which replace parts of the base.

    group: the column that the rows of one product share; empty: that of the base. Raises BadSettings.
    """
    return parse_mapping(
        args.field,
        args.set,
        base=base,
        where=args.where,
        group=group,
        image=args.image,
        category_separator=args.category_separator,
        category_prefix=args.category_prefix,
        category_depth=args.category_depth,
        default_category=args.default_category,
        tags_separator=args.tags_separator,
        decimal_sign=args.decimal_sign,
        strip_html=args.strip_html or None,
    )


def add_report_options(parser: argparse.ArgumentParser) -> None:
    """Add what to do about bad rows."""
    add = parser.add_argument
    add(
        "--strict",
        action="store_true",
        help="stop at the first bad row or photo that cannot be used, with exit status 2",
    )
    add(
        "--max-rejected",
        default="",
        metavar="N|P%",
        help="exit with status 2, and publish nothing, if more rows are bad: a number, or a percentage such as 1%%",
    )


def table_options(args: argparse.Namespace, *, columns: tuple[str, ...] = (), usual_encoding: str = "") -> TableOptions:
    """The options of `add_table_options`. Raises BadSettings for bad values."""
    return TableOptions(
        encoding=check_encoding(args.encoding),
        usual_encoding=usual_encoding,
        delimiter=check_delimiter(args.delimiter),
        columns=columns,
        sheet=args.sheet,
        revision_unit=args.revision_unit,
    )


def new_report(args: argparse.Namespace) -> CatalogueReport:
    """An empty report by the options of `add_report_options`. Raises BadSettings for bad values."""
    return CatalogueReport(strict=args.strict, max_rejected=parse_max_rejected(args.max_rejected))
