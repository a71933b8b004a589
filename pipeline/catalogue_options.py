"""The command-line options that reading a catalogue and importing one share. Pure."""

from __future__ import annotations

import argparse

from lookalike.product_rules import DEFAULT_REVISION_UNIT, REVISION_UNITS
from pipeline.catalogue_report import CatalogueReport, parse_max_rejected
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
    add(
        "--revision-unit",
        choices=REVISION_UNITS,
        default=DEFAULT_REVISION_UNIT,
        help="unit of the revisions, times since 1970; none: they are no times. A row with one that is more than a day "
        "ahead of now is bad (default %(default)s)",
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
