"""Read the files of JSON lines that are named on a command line, and standard input."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import IO

from lookalike.errors import InvalidRequest


@contextmanager
def numbered_lines(argument: str, file: str) -> Iterator[Iterator[tuple[int, str]]]:
    """The lines of a file, or of standard input ("-"), that are not empty, with their numbers.

    Raises InvalidRequest for `argument` if the file cannot be read, or is not UTF-8.
    """
    if file == "-":
        yield _numbered(argument, sys.stdin)
        return
    try:
        opened = open(file, encoding="utf-8-sig")  # noqa: SIM115  # closed below
    except OSError as error:
        raise InvalidRequest(argument, f"{file}: {error.strerror}") from error
    with opened:
        yield _numbered(argument, opened)


def _numbered(argument: str, lines: IO[str]) -> Iterator[tuple[int, str]]:
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, line
    except UnicodeDecodeError as error:
        raise InvalidRequest(argument, f"not UTF-8: {error.reason}") from error
