"""The layout of a fastText .bin, as far as it takes to see that one is whole. Reads files.

The library itself crashes, or never returns, on a file that is cut short (0.9.3), as a download may be.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from lookalike.errors import BadArtifact

_MAGIC, _VERSION = 793712314, 12
_HEADER = struct.Struct("<2i12id")  # Magic, version, arguments of the training.
_DICTIONARY = struct.Struct("<3i2q")  # Entries, words, labels; tokens, pruned subwords.
_AFTER_WORD = 8 + 1  # Count, kind.
_PRUNED = 4 + 4
_MATRIX = struct.Struct("<?2q")  # Quantised; rows, columns; then float32.


def check(path: Path) -> None:
    """Raises BadArtifact where the file is missing, no fastText model of words, quantised, cut short or too long."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size, end = len(data), _end(data)
    except OSError as error:
        raise BadArtifact(f"{path}: {error.strerror}") from error
    except (ValueError, struct.error) as error:  # ValueError: an empty file cannot be mapped.
        raise BadArtifact(f"{path}: not a whole fastText model: {error}") from error
    if size != end:
        raise BadArtifact(f"{path}: not a whole fastText model: {size} bytes, where it says that it has {end}")


def _end(data: mmap.mmap) -> int:
    """Where the file should end. Raises ValueError, struct.error."""
    magic, version, dim = _HEADER.unpack_from(data)[:3]
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"it does not begin as one of version {_VERSION} does")
    entries, words, _, _, pruned = _DICTIONARY.unpack_from(data, _HEADER.size)
    if not words:
        raise ValueError("it has no words")
    position: int = _HEADER.size + _DICTIONARY.size
    for _ in range(entries):
        nul = data.find(b"\0", position)
        if nul < 0:
            raise ValueError("it ends among its words")
        position = nul + 1 + _AFTER_WORD
    position += _PRUNED * max(0, int(pruned))
    for _ in range(2):  # Of input and output.
        quantised, rows, columns = _MATRIX.unpack_from(data, position)
        if quantised or columns != dim:
            raise ValueError("it is quantised, which is not read here")
        position += _MATRIX.size + 4 * int(rows) * int(columns)
    return position
