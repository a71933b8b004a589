"""The step `encode`: reads the catalogue, and encodes photos that are not stored. Reads files, calls a model server.

What was encoded is in the feature store, so an update that is stopped here goes on where it was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from encoders.image.signature import DEFAULT_INPUT_PX
from index.building.build import SpaceVectors
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadCatalogue
from lookalike.product_rules import has_word
from pipeline import image_encoding, photo_tasks
from pipeline.features.previous_format import take_over_photos
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.photo_tasks import TaskEncoder
from pipeline.photos import Photo, PhotoSources, ReadProducts, read_products, read_valid_products, reread_photos
from pipeline.tables.reader import Table
from pipeline.update.options import UpdateOptions
from pipeline.update.read_catalogue import ReadCatalogue
from pipeline.update.report import UpdateReport
from pipeline.update.source import Source


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What the steps of an update share: what is asked for, what is done, and where vectors and files are."""

    options: UpdateOptions
    report: UpdateReport
    store: FeatureStore
    scratch: Path  # Files that are needed while the update runs.


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPhotos:
    """The image vectors of a catalogue, the table that they are stored in, and the model that made them."""

    vectors: SpaceVectors
    features: VectorTable
    model: str  # Name and version, as "mobilenet:3"; empty: not known.


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedCatalogue:
    """A catalogue with the vectors of its photos; None: no product has one, or there is no encoder."""

    catalogue: ReadCatalogue
    photos: EncodedPhotos | None
    file: str  # The name of the products file.


async def encode(work: Work, source: Source) -> EncodedCatalogue:
    """Read the catalogue, and encode its photos at the same time.

    Raises BadCatalogue for one without a valid product, or with more rejected rows than are allowed.
    """
    catalogue = ReadCatalogue()
    with work.report.stage("photos"):
        photos = await _read_and_encode_photos(work, source, catalogue)
    work.report.catalogue.check_rejected()
    if not catalogue.products:
        raise BadCatalogue(f"{source.name}: no valid product in it")
    return EncodedCatalogue(catalogue=catalogue, photos=photos, file=source.table.path.name)


async def _read_and_encode_photos(work: Work, source: Source, catalogue: ReadCatalogue) -> EncodedPhotos | None:
    options, report = work.options, work.report
    async with _connect_encoder(options) as encoder:
        if encoder is None:
            read, sources = _reader(options, ""), source.unread_photos()
            for _ in _read_photos(work, sources, source.table, catalogue, side_px=DEFAULT_INPUT_PX, read=read):
                pass  # Photos are decoded all the same: which rows are bad must not depend on the spaces built.
            return None
        probe = await image_encoding.probe(encoder)
        features = work.store.vectors("image", encoder=probe.encoder, dim=probe.vectors.shape[1])
        take_over_photos(work.store.root, probe.encoder, features, report.catalogue.notice)
        read = _reader(options, probe.encoder)
        async with source.photo_sources(work.store, features, probe.encoder) as sources:
            photos = _read_photos(
                work, sources, source.table, catalogue, side_px=encoder.input_px, read=read, stored=features
            )
            encoded = await image_encoding.encode_photos(encoder.encode, photos, features, probe.encoder)
        report.encoded["photos"] = encoded
        rows = np.flatnonzero([digest is not None for digest in catalogue.photo_digests])
        digests = [digest for digest in catalogue.photo_digests if digest is not None]
        vectors, missing = features.gather(digests, work.scratch / "image.npy")
        if len(missing):  # What was stored is damaged.
            products = [catalogue.products[row] for row in rows[missing].tolist()]
            photos = reread_photos(source.photos, products, side_px=encoder.input_px) if source.photos else iter(())
            report.encoded["photos"] += await image_encoding.encode_photos(
                encoder.encode, photos, features, probe.encoder
            )
            missing = features.read([digests[row] for row in missing.tolist()], vectors, missing)
            if len(missing):
                raise BadCatalogue(f"{source.name}: photos changed during the update: run it again")
        if not len(rows):
            return None
        if source.photos is not None:
            copies = catalogue.copied(options.seed).read_photos(source.photos, features, side_px=encoder.input_px)
            await image_encoding.encode_photos(encoder.encode, copies, features, probe.encoder)
    space = SpaceVectors(encoder=probe.encoder, vectors=vectors, rows=rows)
    return EncodedPhotos(vectors=space, features=features, model=encoder.model)


@asynccontextmanager
async def _connect_encoder(options: UpdateOptions) -> AsyncIterator[image_encoding.PhotoEncoder | None]:
    if options.connect_encoder is None:
        yield None
    else:
        async with options.connect_encoder() as encoder:
            yield encoder


def _reader(options: UpdateOptions, encoder: str) -> ReadProducts:
    """What reads the products. encoder: fingerprint of what tasks encode photos with; empty: nothing."""
    if not options.encode_by_tasks:
        return read_products
    connect = options.connect_encoder
    task_encoder = TaskEncoder(connect=connect, fingerprint=encoder) if connect and encoder else None
    return partial(photo_tasks.read_products, engine=options.engine, encoder=task_encoder)


def _read_photos(
    work: Work,
    sources: PhotoSources,
    table: Table,
    catalogue: ReadCatalogue,
    *,
    side_px: int,
    read: ReadProducts,
    stored: Container[str] = (),
) -> Iterator[Photo]:
    """Read the products into `catalogue` and the report, and yield their photos, decoded to squares of `side_px`.

    stored: the digests of photos that need not be decoded.
    """
    report = work.report.catalogue
    with progress_bar("reading and encoding photos") as count:
        for item in read_valid_products(sources, table, report, side_px=side_px, stored_digests=stored, read=read):
            count()
            report.products += 1
            report.photos += item.photo is not None
            report.texts += has_word(item.product.title) or has_word(item.product.description)
            catalogue.products.append(item.product)
            catalogue.lines.append(item.line)
            catalogue.photo_digests.append(item.photo.digest if item.photo else None)
            if item.photo is not None:
                yield item.photo
