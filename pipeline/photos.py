"""Reads the products of a catalogue with their photos, which threads decode ahead of the reader. Reads files."""

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
from lookalike.product_rules import BadField, CatalogueProduct, RejectReason
from pipeline import catalogue
from pipeline.ordered_map import ordered_map
from pipeline.product import RejectedRow

# One byte over the limit of encoders.image.preprocessing: enough for it to refuse the photo, and no more in memory.
_READ_BYTES = MAX_IMAGE_BYTES + 1
_WORKERS = min(os.cpu_count() or 1, 16)
_AHEAD = 16 * _WORKERS  # Photos decoded ahead: 150 kB of memory each.


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo by the digest of its file, decoded unless its vector is already stored."""

    digest: str  # Of the file's bytes: a photo that several products share is encoded once.
    pixels: npt.NDArray[np.uint8] | None  # (224, 224, 3); None: in `stored_digests`, so not decoded.


@dataclass(frozen=True, slots=True)
class ProductWithPhoto:
    """A product of a catalogue, the line of its row, and its photo."""

    line: int
    product: CatalogueProduct
    photo: Photo | None  # None: the product has no photo.


def read_products(directory: Path, *, stored_digests: Container[str] = ()) -> Iterator[ProductWithPhoto | RejectedRow]:
    """Read the rows of a catalogue in order, each as a product with its decoded photo, or as a RejectedRow.

    stored_digests: of the photos whose vectors are stored already; these are not decoded.
    """
    file = catalogue.find_products_file(directory).name

    def with_photo(item: tuple[int, CatalogueProduct] | RejectedRow) -> ProductWithPhoto | RejectedRow:
        if isinstance(item, RejectedRow):
            return item
        line, product = item
        try:
            photo = (
                open_photo(directory / product.image, stored_digests)
                if product.image and "://" not in product.image
                else None
            )
            return ProductWithPhoto(line, product, photo)
        except BadField as bad:
            return RejectedRow(file=file, line=line, id=product.id, reason=bad.reason, detail=bad.detail)

    for _, result in ordered_map(with_photo, catalogue.read(directory), workers=_WORKERS, ahead=_AHEAD):
        yield result


def open_photo(path: Path, stored_digests: Container[str] = ()) -> Photo:
    """Read a photo, and decode it unless its digest is in `stored_digests`. Raises BadField with the reason."""
    try:
        with path.open("rb") as file:
            data = file.read(_READ_BYTES)
        digest = blake2b(data, digest_size=16).hexdigest()
        return Photo(digest, None if digest in stored_digests else preprocess(data))
    except BadImage as error:
        raise BadField("image", RejectReason.BROKEN_IMAGE, f"{path.name}: {error.reason}") from None
    except OSError as error:
        raise BadField("image", RejectReason.MISSING_IMAGE, f"{path.name}: {error.strerror}") from None
