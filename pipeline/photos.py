"""Reads the products of a catalogue with their photos, which threads decode ahead of the reader. Reads files."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from encoders.image.isolated_decoder import Decode, image_decoder
from encoders.image.preprocessing import BadImage, ImageTooLarge
from lookalike.limits import MAX_IMAGE_BYTES
from lookalike.printable import quote
from lookalike.product_rules import CatalogueProduct, is_photo_url
from lookalike.runtime.ordered_map import ordered_map
from lookalike.vectors import F32
from pipeline import catalogue
from pipeline.catalogue import CatalogueRow
from pipeline.catalogue_report import CatalogueReport
from pipeline.product import PhotoError, RejectedRow, UnusedPhoto, UnusedPhotoReason
from pipeline.tables.reader import Table

# One byte over the limit of encoders.image.preprocessing: enough for it to refuse the photo, and no more in memory.
_READ_BYTES = MAX_IMAGE_BYTES + 1
_WORKERS = min(os.cpu_count() or 1, 16)
_KNOWN_AT_ONCE = 512

KnownPhotos = Callable[[Sequence[CatalogueProduct]], Mapping[str, str]]
_AHEAD = 16 * _WORKERS  # Photos decoded ahead: 150 kB of memory each in squares of 224 px.


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo by the digest of its file, decoded unless its vector is already stored."""

    digest: str  # Of the file's bytes: a photo that several products share is encoded once.
    pixels: npt.NDArray[np.uint8] | None  # (px, px, 3); None: in `stored_digests`, or has a vector.
    product: str = ""  # The id of a product whose photo it is.
    vector: F32 | None = None  # If the task that decoded it has encoded it, too.


@dataclass(frozen=True, slots=True)
class ProductWithPhoto:
    """A product of a catalogue, the line of its row, and its photo."""

    line: int
    product: CatalogueProduct
    photo: Photo | None  # None: the product has no photo that can be used.
    unused_photo: UnusedPhoto | None = None  # Why its photo cannot be used.
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoSources:
    """Where the photos of a catalogue's products are.

    directory: of those that are stated by their paths; None: there is none.
    known:     the digests of photos that need no file since their vectors are stored, by product id; asked for some
               hundred products at a time.
    as_stated: products keep the photo that they state, whether or not it can be used.
    """

    directory: Path | None
    known: KnownPhotos = lambda products: {}  # none
    as_stated: bool = False


def read_products(
    sources: PhotoSources, table: Table, *, side_px: int, stored_digests: Container[str] = ()
) -> Iterator[ProductWithPhoto | RejectedRow]:
    """Read the rows of a products file in order, each as a product with its decoded photo, or as a RejectedRow.

    side_px: of the squares that photos are decoded to.
    stored_digests: of the photos whose vectors are stored; these are not decoded.
    """

    def open_image(product: CatalogueProduct) -> Photo:
        return open_photo(photo_path(sources, product), decode, stored_digests, product=product.id)

    with image_decoder(_WORKERS, side_px) as decode:
        opened = ordered_map(
            lambda row: with_photo(*row, table.path.name, open_image, as_stated=sources.as_stated),
            read_rows(sources, table),
            workers=_WORKERS,
            ahead=_AHEAD,
        )
        for _, result in opened:
            yield result


def read_rows(sources: PhotoSources, table: Table) -> Iterator[tuple[CatalogueRow | RejectedRow, str]]:
    """Each row with the digest of its photo where that is known, or empty."""
    rows = catalogue.read_table(None if sources.as_stated else sources.directory, table)
    while batch := [*itertools.islice(rows, _KNOWN_AT_ONCE)]:
        known = sources.known([row.product for row in batch if isinstance(row, CatalogueRow)])
        for row in batch:
            yield row, known.get(row.product.id, "") if isinstance(row, CatalogueRow) else ""


def photo_path(sources: PhotoSources, product: CatalogueProduct) -> Path:
    """Where the file of a product's photo is. Raises PhotoError if that is nowhere."""
    if sources.directory is None or is_photo_url(product.image):
        raise PhotoError(UnusedPhotoReason.NOT_FETCHED, product.image)
    return sources.directory / product.image


def with_photo(
    item: CatalogueRow | RejectedRow,
    known: str,
    file: str,
    open_image: Callable[[CatalogueProduct], Photo],
    *,
    as_stated: bool,
) -> ProductWithPhoto | RejectedRow:
    """A row of `file` with its photo, or with the reason why it cannot be used.

    known: the digest of its photo; empty: it is opened by open_image, which may raise PhotoError.
    """
    if isinstance(item, RejectedRow):
        return item
    product, photo, unused = item.product, None, item.unused_photo
    try:
        if known:
            photo = Photo(known, None, product.id)
        elif product.image:
            photo = open_image(product)
    except PhotoError as error:
        unused = UnusedPhoto(file=file, line=item.line, id=product.id, reason=error.reason, detail=error.detail)
        if error.reason is not UnusedPhotoReason.NOT_FETCHED and not as_stated:
            product = dataclasses.replace(product, image="")
    return ProductWithPhoto(item.line, product, photo, unused, item.notices)


class ReadProducts(Protocol):
    """Reads the rows of a products file in order, as `read_products`."""

    def __call__(
        self, sources: PhotoSources, table: Table, *, side_px: int, stored_digests: Container[str]
    ) -> Iterator[ProductWithPhoto | RejectedRow]: ...


def read_valid_products(
    sources: PhotoSources,
    table: Table,
    report: CatalogueReport,
    *,
    side_px: int,
    stored_digests: Container[str] = (),
    read: ReadProducts = read_products,
) -> Iterator[ProductWithPhoto]:
    """Read the products of a catalogue by `read`; rejected rows and unusable photos go to the report."""
    for notice in table.notices:
        report.notice(notice)
    for item in read(sources, table, side_px=side_px, stored_digests=stored_digests):
        report.rows += 1
        if isinstance(item, RejectedRow):
            report.reject(item)
            continue
        for notice in item.notices:
            report.notice(f"{table.path.name}:{item.line}: {notice}")
        if item.unused_photo is not None:
            report.note_unused_photo(item.unused_photo)
        yield item


def reread_photos(directory: Path, products: Iterable[CatalogueProduct], *, side_px: int) -> Iterator[Photo]:
    """Read and decode photos of products again, those that can still be used."""
    with image_decoder(_WORKERS, side_px) as decode:
        for product in products:
            with contextlib.suppress(PhotoError):
                yield open_photo(directory / product.image, decode, product=product.id)


def open_photo(path: Path, decode: Decode, stored_digests: Container[str] = (), *, product: str = "") -> Photo:
    """Read a photo, and decode it unless its digest is in `stored_digests`. Raises PhotoError with the reason."""
    try:
        with path.open("rb") as file:
            data = file.read(_READ_BYTES)
        digest = blake2b(data, digest_size=16).hexdigest()
        return Photo(digest, None if digest in stored_digests else decode(data), product)
    except ImageTooLarge as error:
        raise PhotoError(UnusedPhotoReason.TOO_LARGE, f"{quote(path.name)}: {error.reason}") from None
    except BadImage as error:
        raise PhotoError(UnusedPhotoReason.BROKEN, f"{quote(path.name)}: {error.reason}") from None
    except OSError as error:
        raise PhotoError(UnusedPhotoReason.MISSING, f"{quote(path.name)}: {error.strerror}") from None


def pixels_or_none(path: Path, decode: Decode) -> npt.NDArray[np.uint8] | None:
    """The pixels of a photo, (px, px, 3); None if it cannot be used."""
    try:
        return open_photo(path, decode).pixels
    except PhotoError:
        return None
