"""Read a fastText .bin: its words, the vectors of words and subwords, and how subwords are hashed. Reads files.

The library itself (0.9.3) holds the interpreter's lock while it loads a model, 80 ms for 20 MB, in which no call is
answered, and it crashes or hangs on a truncated file, such as an interrupted download.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from lookalike.errors import BadArtifact
from lookalike.vectors import F32

_MAGIC, _VERSION = 793712314, 12
# Magic, version; of the training arguments (12 integers and a float) the first is dim, the 9th to 11th are the buckets
# and the lengths of subwords.
_HEADER = struct.Struct("<2i12id")
_DICTIONARY = struct.Struct("<3i2q")  # Entries, words, labels; tokens, pruned subwords.
_AFTER_WORD_BYTES = 8 + 1  # After each word: count, entry type.
_MATRIX = struct.Struct("<?2q")  # Quantised; rows, columns; float32 values follow.


@dataclass(frozen=True, slots=True, kw_only=True)
class FastTextFile:
    """What the vectors of words are computed from.

    rows: (words + buckets, dim) float32, the vectors of words and then of the buckets that subwords are hashed to.
    lengths: of subwords in characters, minimum and maximum; (0, 0): there are none.
    """

    words: list[str]
    rows: F32
    buckets: int
    lengths: tuple[int, int]


def read(path: Path) -> FastTextFile:
    """Raises BadArtifact for a file that is missing, no fastText model, without words, quantised or of wrong size."""
    try:
        with path.open("rb", buffering=0) as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(file, data)
    except OSError as error:
        raise BadArtifact(f"{path}: {error.strerror}") from error
    except (ValueError, struct.error) as error:  # ValueError: an empty file cannot be mapped.
        raise BadArtifact(f"{path}: not a complete fastText model: {error}") from error


def _read(file: BinaryIO, data: mmap.mmap) -> FastTextFile:
    """Raises ValueError, struct.error."""
    header = _HEADER.unpack_from(data)
    if header[:2] != (_MAGIC, _VERSION):
        raise ValueError(f"it does not have the header of version {_VERSION}")
    dim, buckets, lengths = header[2], header[10], (header[11], header[12])
    entries, word_count, _, _, pruned = _DICTIONARY.unpack_from(data, _HEADER.size)
    if not 0 < word_count <= entries:
        raise ValueError(f"it has {word_count} words of {entries}" if word_count else "it has no words")
    spans = [*_entries(data, entries)]
    words = [data[start:end].decode() for start, end in spans[:word_count]]  # Labels follow.
    input_position = spans[-1][1] + 1 + _AFTER_WORD_BYTES
    rows = _matrix_rows(data, input_position, dim, pruned)
    output_position = input_position + _MATRIX.size + 4 * rows * dim
    end = output_position + _MATRIX.size + 4 * _matrix_rows(data, output_position, dim, pruned) * dim
    if len(data) != end:
        raise ValueError(f"the file has {len(data)} bytes, expected {end}")
    if rows != word_count + buckets:
        raise ValueError(f"it has {rows} vectors, expected those of {word_count} words and {buckets} buckets")
    vectors = np.empty((rows, dim), dtype="<f4")
    file.seek(input_position + _MATRIX.size)
    _read_into(file, vectors.data.cast("B"))
    return FastTextFile(words=words, rows=vectors, buckets=buckets, lengths=lengths)


def _entries(data: mmap.mmap, count: int) -> Iterator[tuple[int, int]]:
    """Where each word or label of the dictionary starts and ends. Raises ValueError."""
    position = _HEADER.size + _DICTIONARY.size
    for _ in range(count):
        end = data.find(b"\0", position)
        if end < 0:
            raise ValueError("it ends within its dictionary")
        yield position, end
        position = end + 1 + _AFTER_WORD_BYTES


def _matrix_rows(data: mmap.mmap, position: int, dim: int, pruned: int) -> int:
    """The rows of the matrix that starts there. Raises ValueError, struct.error."""
    quantised, rows, columns = _MATRIX.unpack_from(data, position)
    if quantised or columns != dim or pruned >= 0:  # -1: none were.
        raise ValueError("quantised models are not supported")
    return int(rows)


def _read_into(file: BinaryIO, buffer: memoryview) -> None:
    """Fill the buffer. Reads outside the interpreter's lock, so that other threads go on. Raises ValueError."""
    filled = 0
    while filled < len(buffer):
        if not (count := file.readinto(buffer[filled:])):  # type: ignore[attr-defined]  # of a file without buffering
            raise ValueError("it has become shorter")
        filled += count
