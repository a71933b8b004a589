"""The photos of a catalogue, opened and decoded ahead of whoever walks through its rows. Reads files, on threads."""

from __future__ import annotations

import os
from collections.abc import Container, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import numpy as np
import numpy.typing as npt

from encoders.image.preprocessing import BadImage, preprocess
from lookalike.limits import MAX_IMAGE_BYTES
from pipeline import catalogue
from pipeline.pool import ordered
from pipeline.product import Bad, Reason, Reject, Row

# The bound of a photo (encoders.image.preprocessing) and one more byte: enough to be refused, never more in memory.
_READ_BYTES = MAX_IMAGE_BYTES + 1
_WORKERS = min(os.cpu_count() or 1, 16)
_AHEAD = 16 * _WORKERS  # Photos in memory before anybody asks: 150 kB each once they are preprocessed.


@dataclass(frozen=True, slots=True)
class Photo:
    digest: str  # Of the file's bytes: two products with one picture are encoded once.
    pixels: npt.NDArray[np.uint8] | None  # (224, 224, 3); None: a known photo, not decoded again.


@dataclass(frozen=True, slots=True)
class Product:
    line: int
    row: Row
    photo: Photo | None  # None: the product has none.


def products(directory: Path, *, known: Container[str] = ()) -> Iterator[Product | Reject]:
    """Every row of a catalogue in its order with its photo decoded, or why it is no product.

    known: digests of photos that need no decoding, because they were decoded once.
    """
    file = catalogue.file_of(directory).name

    def looked_at(item: tuple[int, Row] | Reject) -> Product | Reject:
        if isinstance(item, Reject):
            return item
        line, row = item
        try:
            return Product(line, row, opened(directory / row.image, known) if row.image else None)
        except Bad as bad:
            return Reject(file=file, line=line, id=row.id, reason=bad.reason, detail=bad.detail)

    for _, product in ordered(looked_at, catalogue.read(directory), workers=_WORKERS, ahead=_AHEAD):
        yield product


def opened(path: Path, known: Container[str] = ()) -> Photo:
    """The photo in a file. Raises Bad with the reason of encoders.image.preprocessing."""
    try:
        with path.open("rb") as file:
            data = file.read(_READ_BYTES)
        digest = blake2b(data, digest_size=16).hexdigest()
        return Photo(digest, None if digest in known else preprocess(data))
    except BadImage as error:
        raise Bad(Reason.BROKEN_IMAGE, f"{path.name}: {error.reason}") from None
    except OSError as error:
        raise Bad(Reason.MISSING_IMAGE, f"{path.name}: {error.strerror}") from None
