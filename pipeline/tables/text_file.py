"""The lines of a text file, plain or compressed by gzip. Reads files.

A line ends with LF, CR LF or CR. Bytes that are not of the encoding become lone surrogates, for which a field is
refused, not the file.
"""

from __future__ import annotations

import gzip
import io
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from lookalike.errors import BadCatalogue
from pipeline.tables.encoding import ERRORS, detect_encoding
from pipeline.tables.record import MAX_ROW_CHARS

_CHUNK_BYTES = 1 << 20
# Lines are read again after a row that does not end; in a file that is made of such rows, at most so many characters.
_MAX_REREAD_CHARS = 64 << 20


class LongRow(Exception):
    """A row is longer than MAX_ROW_CHARS."""


class LineReader:
    """The lines of a file one at a time, with the number of the next one and a way back to the second of a row."""

    def __init__(self, text: io.TextIOWrapper) -> None:
        self._text = text
        self._returned: deque[str] = deque()  # Lines to read again.
        self._row: list[str] = []
        self._row_chars = 0
        self._reread_chars = 0
        self.number = 1  # Of the next line, from 1.

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        """The next line of the row. Raises LongRow, and StopIteration at the end of the file."""
        line = self._returned.popleft() if self._returned else self._text.readline(MAX_ROW_CHARS)
        if not line:
            raise StopIteration
        if self.number == 1:
            line = line.removeprefix("\ufeff")  # A byte order mark that the encoding given does not know.
        self.number += 1
        self._row_chars += len(line)
        self._row.append(line)
        if self._row_chars >= MAX_ROW_CHARS:
            while line and line[-1] not in "\r\n":
                line = self._text.readline(MAX_ROW_CHARS)
            raise LongRow
        return line

    def begin_row(self) -> None:
        """Begin a row with the next line."""
        self._row.clear()
        self._row_chars = 0

    def reread(self) -> None:
        """Go back to the second line of this row: the first has a quote that nothing closes, and swallowed the rest."""
        lines = [line for line in self._row[1:] if line[-1] in "\r\n" or len(line) < MAX_ROW_CHARS]
        self._reread_chars += self._row_chars
        if self._reread_chars <= _MAX_REREAD_CHARS:
            self._returned.extendleft(reversed(lines))
            self.number -= len(lines)


def file_encoding(path: Path, encoding: str = "") -> str:
    """The encoding given, else the file's own (tables.encoding). Raises BadCatalogue for a file that is not UTF-8."""
    if encoding:
        return encoding
    with _open_binary(path) as binary:
        return detect_encoding(str(path), iter(lambda: binary.read(_CHUNK_BYTES), b""))


@contextmanager
def open_lines(path: Path, encoding: str) -> Iterator[LineReader]:
    """Open a text file for reading."""
    with (
        _open_binary(path) as binary,
        io.TextIOWrapper(binary, encoding=encoding, errors=ERRORS, newline="") as text,
    ):
        yield LineReader(text)


def _open_binary(path: Path) -> IO[bytes]:
    try:
        return io.BufferedReader(gzip.open(path)) if path.suffix.lower() == ".gz" else path.open("rb")
    except OSError as error:
        raise BadCatalogue(f"{path}: {error.strerror}") from None
