"""The delimiter of a table's columns: from Excel's line `sep=;`, or from the header line. Pure."""

from __future__ import annotations

import csv
import re
from collections.abc import Collection

from lookalike.errors import BadSettings

_CANDIDATES = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SEP_LINE = re.compile(r'"?sep=(.)"?[;,\t]*[\r\n]*', re.IGNORECASE)
_WORDS = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|"}


def check_delimiter(text: str) -> str:
    """One character, or a word for one: "tab"; empty stays empty. Raises BadSettings."""
    delimiter = _WORDS.get(text.lower(), text)
    if text and (len(delimiter) != 1 or delimiter in '"\r\n\0'):
        raise BadSettings(f"--delimiter {text!r}: expected one character such as ';', or the word tab")
    return delimiter


def sep_line(line: str) -> str:
    """The delimiter that a line `sep=;` states, as Excel reads and writes it before the header; empty: none."""
    match = _SEP_LINE.fullmatch(line)
    return match[1] if match else ""


def sniff(line: str, usual: str, *, wanted: Collection[str] = (), count: int = 0) -> str:
    """The delimiter of a table by its first line; the usual one of its kind of file unless another is certain.

    wanted: columns that the header must have. count: the number of columns, of a table without a header line.
    """
    cells = {delimiter: split(line, delimiter) for delimiter in _CANDIDATES}
    if count:
        fitting = [delimiter for delimiter in _CANDIDATES if len(cells[delimiter]) == count]
    elif wanted and not set(wanted) <= set(cells[usual]):
        fitting = [delimiter for delimiter in _CANDIDATES if set(wanted) <= set(cells[delimiter])]
        fitting = fitting or _dividing(cells)
    else:
        fitting = [usual] if len(cells[usual]) > 1 else _dividing(cells)
    return fitting[0] if len(fitting) == 1 and usual not in fitting else usual


def _dividing(cells: dict[str, list[str]]) -> list[str]:
    return [delimiter for delimiter, parts in cells.items() if len(parts) > 1]


def split(line: str, delimiter: str) -> list[str]:
    """The cells of one line."""
    try:
        return [cell.strip() for cell in next(csv.reader([line], delimiter=delimiter), [])]
    except csv.Error:
        return []
