"""Reads, decodes and encodes the photos of a catalogue by tasks of an engine. Reads files, calls a model server.

The catalogue is a directory that all machines share. A first task for a batch of rows reads the photos for their
digests; a second one reads, decodes and encodes those of which no vector is stored. Back come digests and vectors.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from encoders.image.isolated_decoder import image_decoder
from lookalike.product_rules import CatalogueProduct, is_photo_url
from lookalike.runtime.engine import Engine, Item, Result, TaskNeeds
from lookalike.vectors import F32
from pipeline.catalogue import CatalogueRow
from pipeline.image_encoding import BATCH, PhotoEncoder, Pixels, encode_by
from pipeline.photos import Photo, PhotoSources, ProductWithPhoto, open_photo, photo_path, read_rows, with_photo
from pipeline.product import PhotoError, RejectedRow, UnusedPhotoReason
from pipeline.tables.reader import Table

BATCH_ROWS = 64
# Of a task: the largest photo, decoded, and a batch of squares (encoders/image/preprocessing.py bounds the first).
_TASK_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class TaskEncoder:
    """How tasks reach the image encoder, and the fingerprint that it must have."""

    connect: Callable[[], AbstractAsyncContextManager[PhotoEncoder]]
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Unusable:
    """Why a photo cannot be used."""

    reason: UnusedPhotoReason
    detail: str


@dataclass(frozen=True, kw_only=True)
class PhotoPaths:
    """Photos in a catalogue."""

    directory: Path
    images: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class NewPhotos:
    """Photos to decode and encode. encoder: None, they are decoded only, to know which can be used."""

    paths: PhotoPaths
    side_px: int
    encoder: TaskEncoder | None


@dataclass(frozen=True, kw_only=True)
class EncodedPhotos:
    """The digests of photos, or why they cannot be used; and the vectors of those with a digest."""

    digests: tuple[str | Unusable, ...]
    vectors: F32 | None


class _Everything:
    """A container of all digests: no photo is decoded."""

    def __contains__(self, digest: object) -> bool:
        return True


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """Rows of a catalogue, and the photos that they name."""

    rows: Sequence[tuple[CatalogueRow | RejectedRow, str]]  # Each with the digest of its photo, if that is known.
    images: tuple[str, ...]
    digests: tuple[str | Unusable, ...] = ()
    new: tuple[str, ...] = ()  # The images of which no vector is stored.


def read_products(
    sources: PhotoSources,
    table: Table,
    *,
    engine: Engine,
    encoder: TaskEncoder | None,
    side_px: int,
    stored_digests: Container[str] = (),
) -> Iterator[ProductWithPhoto | RejectedRow]:
    """As `pipeline.photos.read_products`, but photos have vectors in place of pixels.

    Raises as `image_encoding.encode_by`.
    """
    shared = (sources.directory or Path()).absolute()
    needs = TaskNeeds(memory_bytes=_TASK_BYTES, files=(table.path.absolute(),))

    def read() -> Iterator[tuple[_Batch, PhotoPaths]]:
        for batch in _batches(sources, table):
            yield batch, PhotoPaths(directory=shared, images=batch.images)

    def unknown() -> Iterator[tuple[_Batch, NewPhotos]]:
        for batch, digests in _paired(engine, digest_photos, read(), needs):
            new = tuple(
                image
                for image, digest in zip(batch.images, digests, strict=True)
                if isinstance(digest, str) and digest not in stored_digests
            )
            paths = PhotoPaths(directory=shared, images=new)
            yield replace(batch, digests=digests, new=new), NewPhotos(paths=paths, side_px=side_px, encoder=encoder)

    for batch, encoded in _paired(engine, encode_photos, unknown(), needs):
        yield from _with_photos(batch, encoded, table.path.name, sources)


def digest_photos(paths: PhotoPaths) -> tuple[str | Unusable, ...]:
    """A task: the digest of each photo's bytes, or why it cannot be read."""
    opened = (_open(paths.directory / image, _no_decoder, _Everything()) for image in paths.images)
    return tuple(photo.digest if isinstance(photo, Photo) else photo for photo in opened)


def encode_photos(new: NewPhotos) -> EncodedPhotos:
    """A task: decode photos to squares, and encode them."""
    with image_decoder(1, new.side_px) as decode:
        photos = [_open(new.paths.directory / image, decode) for image in new.paths.images]
    pixels = [photo.pixels for photo in photos if isinstance(photo, Photo) and photo.pixels is not None]
    digests = tuple(photo.digest if isinstance(photo, Photo) else photo for photo in photos)
    if new.encoder is None or not pixels:
        return EncodedPhotos(digests=digests, vectors=None)
    return EncodedPhotos(digests=digests, vectors=asyncio.run(_encode(new.encoder, pixels)))


async def _encode(encoder: TaskEncoder, pixels: Sequence[Pixels]) -> F32:
    async with encoder.connect() as connected:
        return np.concatenate(
            [
                await encode_by(encoder.fingerprint, connected.encode, np.stack(pixels[start : start + BATCH]))
                for start in range(0, len(pixels), BATCH)
            ]
        )


def _open(path: Path, decode: Callable[[bytes], Pixels], stored_digests: Container[str] = ()) -> Photo | Unusable:
    try:
        return open_photo(path, decode, stored_digests)
    except PhotoError as error:
        return Unusable(reason=error.reason, detail=error.detail)


def _no_decoder(data: bytes) -> Pixels:
    raise AssertionError("unreachable: no photo is to be decoded")


def _batches(sources: PhotoSources, table: Table) -> Iterator[_Batch]:
    rows = read_rows(sources, table)
    while batch := list(islice(rows, BATCH_ROWS)):
        images = {row.product.image: None for row, known in batch if isinstance(row, CatalogueRow) and not known}
        in_files = (image for image in images if image and sources.directory is not None and not is_photo_url(image))
        yield _Batch(rows=batch, images=tuple(in_files))


def _paired(
    engine: Engine, task: Callable[[Item], Result], batches: Iterator[tuple[_Batch, Item]], needs: TaskNeeds
) -> Iterator[tuple[_Batch, Result]]:
    """The result of each batch's task, with the batch, which stays on this machine."""
    waiting: deque[_Batch] = deque()

    def items() -> Iterator[Item]:
        for batch, item in batches:
            waiting.append(batch)
            yield item

    for result in engine.map(task, items(), needs):
        yield waiting.popleft(), result


def _with_photos(
    batch: _Batch, encoded: EncodedPhotos, file: str, sources: PhotoSources
) -> Iterator[ProductWithPhoto | RejectedRow]:
    """The rows of a batch with their photos."""
    photos: dict[str, Photo | Unusable] = {
        image: digest if isinstance(digest, Unusable) else Photo(digest, None)
        for image, digest in zip(batch.images, batch.digests, strict=True)
    }
    vectors: Iterator[Any] = iter(()) if encoded.vectors is None else iter(encoded.vectors)
    for image, digest in zip(batch.new, encoded.digests, strict=True):
        photos[image] = digest if isinstance(digest, Unusable) else Photo(digest, None, vector=next(vectors, None))

    def open_image(product: CatalogueProduct) -> Photo:
        photo_path(sources, product)
        photo = photos[product.image]
        if isinstance(photo, Unusable):
            raise PhotoError(photo.reason, photo.detail)
        return replace(photo, product=product.id)

    return (with_photo(*row, file, open_image, as_stated=sources.as_stated) for row in batch.rows)
