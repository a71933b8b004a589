"""Rows of one sheet of an Excel file (.xlsx), a row at a time. Reads files."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree.ElementTree import ParseError

from lookalike.errors import BadCatalogue, BadSettings
from pipeline.tables.record import MAX_ROW_CHARS, BrokenRecord

if TYPE_CHECKING:
    from openpyxl.workbook import Workbook

# An .xlsx is a zip file of XML. All texts of the file are in one part of it, which openpyxl reads into memory, about
# four times its size; a sheet is read a row at a time. Excel's own have at most 1,048,576 rows and 16,384 columns.
_MAX_TEXTS_BYTES = 256 << 20
_MAX_UNPACKED_BYTES = 4 << 30
_SHARED_STRINGS = "xl/sharedStrings.xml"
# What openpyxl and zipfile raise for damaged files; RuntimeError: for an encrypted one, or an unknown compression.
_DAMAGED = (
    ValueError, ArithmeticError, LookupError, TypeError, AttributeError, ParseError, EOFError, OSError, RuntimeError,
    zipfile.BadZipFile, zlib.error,
)  # fmt: skip


def read_rows(path: Path, sheet: str = "") -> Iterator[tuple[int, list[Any]] | BrokenRecord]:
    """The cells of each row that is not empty, with its number. sheet: its name; empty: the first one."""
    with _workbook(path) as book:
        try:
            for number, values in enumerate(_sheet(path, book, sheet).iter_rows(values_only=True), 1):
                cells = [_cell(value) for value in values]
                while cells and cells[-1] == "":
                    cells.pop()
                if sum(len(cell) for cell in cells if isinstance(cell, str)) > MAX_ROW_CHARS:
                    yield BrokenRecord(number, f"over {MAX_ROW_CHARS} characters")
                elif cells:
                    yield number, cells
        except _DAMAGED as error:
            raise BadCatalogue(f"{path}: a damaged Excel file: {error}") from None


def sheet_names(path: Path) -> list[str]:
    """The names of the sheets in order."""
    with _workbook(path) as book:
        return [sheet.title for sheet in book.worksheets]


def _sheet(path: Path, book: Workbook, name: str) -> Any:
    sheets = {sheet.title: sheet for sheet in book.worksheets}
    if not sheets or (name and name not in sheets):
        raise BadSettings(f"--sheet {name}: {path} has the sheets {', '.join(sheets) or 'none'}")
    sheet = sheets[name] if name else book.worksheets[0]
    # The size that a file states for a sheet is often wrong, and ends the reading too early.
    sheet.reset_dimensions()
    return sheet


@contextmanager
def _workbook(path: Path) -> Iterator[Workbook]:
    from openpyxl import load_workbook

    with ExitStack() as on_exit:
        try:
            file = on_exit.enter_context(path.open("rb"))  # openpyxl would leave it open if it fails.
            with zipfile.ZipFile(file) as parts:
                sizes = {part.filename: part.file_size for part in parts.infolist()}
                if sizes.get(_SHARED_STRINGS, 0) > _MAX_TEXTS_BYTES or sum(sizes.values()) > _MAX_UNPACKED_BYTES:
                    raise BadCatalogue(f"{path}: too large an Excel file when unpacked; save the sheet as CSV")
            book = load_workbook(file, read_only=True, data_only=True)
        except FileNotFoundError:
            raise BadCatalogue(f"{path}: No such file or directory") from None
        except _DAMAGED as error:
            raise BadCatalogue(f"{path}: not an .xlsx file: {error}") from None
        on_exit.callback(book.close)
        yield book


def _cell(value: Any) -> Any:
    """The value of a cell: empty text for none; a whole number is no fraction, as an id that was typed in as one."""
    if value is None:
        return ""
    return int(value) if isinstance(value, float) and value.is_integer() else value
