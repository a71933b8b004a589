"""Check that a fastText .bin file is complete, by parsing its layout. Reads files.

The library itself (0.9.3) crashes or hangs on a truncated file, such as an interrupted download.
"""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

from lookalike.errors import BadArtifact

_MAGIC, _VERSION = 793712314, 12
_HEADER = struct.Struct("<2i12id")  # Magic, version, training arguments (the first is dim).
_DICTIONARY = struct.Struct("<3i2q")  # Entries, words, labels; tokens, pruned subwords.
_AFTER_WORD_BYTES = 8 + 1  # After each word: count, entry type.
_PRUNED_SUBWORD_BYTES = 4 + 4
_MATRIX = struct.Struct("<?2q")  # Quantised; rows, columns; float32 values follow.


def check_complete(path: Path) -> None:
    """Raise BadArtifact for a file that is missing, not a fastText model, without words, quantised or of wrong size."""
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            size, end = len(data), _expected_size(data)
    except OSError as error:
        raise BadArtifact(f"{path}: {error.strerror}") from error
    except (ValueError, struct.error) as error:  # ValueError: an empty file cannot be mapped.
        raise BadArtifact(f"{path}: not a complete fastText model: {error}") from error
    if size != end:
        raise BadArtifact(f"{path}: not a complete fastText model: the file has {size} bytes, expected {end}")


def _expected_size(data: mmap.mmap) -> int:
    """The file size in bytes that the header and counts imply. Raises ValueError, struct.error."""
    magic, version, dim = _HEADER.unpack_from(data)[:3]
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError(f"it does not have the header of version {_VERSION}")
    entries, words, _, _, pruned = _DICTIONARY.unpack_from(data, _HEADER.size)
    if not words:
        raise ValueError("it has no words")
    position: int = _HEADER.size + _DICTIONARY.size
    for _ in range(entries):
        nul = data.find(b"\0", position)
        if nul < 0:
            raise ValueError("it ends within its dictionary")
        position = nul + 1 + _AFTER_WORD_BYTES
    position += _PRUNED_SUBWORD_BYTES * max(0, int(pruned))
    for _ in range(2):  # The input matrix, then the output matrix.
        quantised, rows, columns = _MATRIX.unpack_from(data, position)
        if quantised or columns != dim:
            raise ValueError("quantised models are not supported")
        position += _MATRIX.size + 4 * int(rows) * int(columns)
    return position
