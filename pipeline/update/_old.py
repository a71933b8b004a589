"""Encodes a catalogue and builds a new version of the index from it. Reads and writes files.

The catalogue is a directory, or the products that a gateway serves, with all that was changed by day. Calls a model
server. Only what changed is computed: each encoder encodes a photo or text once, the text encoder is trained once on
the same texts, and the same inputs give the version that exists already.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Container, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from encoders.image.signature import DEFAULT_INPUT_PX
from encoders.product import model as product_encoder
from encoders.product.train import QualityGateFailed
from encoders.text import model as text_encoder
from index.building.build import DEFAULT_OPTIONS, IndexOptions, SpaceVectors, build
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadArtifact, BadCatalogue, OperatorError
from lookalike.product_rules import FIELDS, CatalogueProduct, has_word
from lookalike.releases import version
from lookalike.releases.manifest import DuplicatesThreshold, RecipeChoice
from lookalike.runtime.engine import Engine
from lookalike.runtime.local_engine import LocalEngine
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import F32
from pipeline import (
    duplicates,
    image_encoding,
    photo_tasks,
    product_fusion,
    served_catalogue,
    text_encoding,
    text_tasks,
)
from pipeline.catalogue import open_products
from pipeline.catalogue_report import CatalogueReport, MaxRejected
from pipeline.features.compaction import CompactionOptions
from pipeline.features.key_index import keys_of
from pipeline.features.previous_format import take_over_photos
from pipeline.features.store import FeatureStore, Partition
from pipeline.features.vectors import VectorTable
from pipeline.gateway import Gateway
from pipeline.known_photos import FetchedPhotos, ServedPhotos
from pipeline.photo_tasks import TaskEncoder
from pipeline.photos import Photo, PhotoSources, ReadProducts, read_products, read_valid_products, reread_photos
from pipeline.product_copies import CopiedProducts
from pipeline.tables.reader import DEFAULT_OPTIONS as DEFAULT_TABLE_OPTIONS
from pipeline.tables.reader import Table, TableOptions
from pipeline.text_encoding import KeepTextEncoder, TextEncoderSettings
from pipeline.update_lock import lock_directory
from pipeline.word_queries import SpaceChoice

FEATURE_STORE = ".features"  # Of the computed vectors, in the location of the index.
_WORK = ".update"  # Directory of files that an update needs while it runs, in the location of the index.


@dataclass(frozen=True, kw_only=True)
class UpdateOptions:
    """What an update reads, where it writes, and how it trains and builds."""

    catalogue: Path | None  # None: the products that `gateway` serves.
    location: Path
    artifacts: Path
    connect_encoder: (
        Callable[[], AbstractAsyncContextManager[image_encoding.PhotoEncoder]] | None
    )  # None: no image space.
    feature_store: str | Path  # A URL, or a directory.
    gateway: str = ""  # host:port.
    photos: Path | None = None  # Where paths of photos are that products of the gateway state; None: nowhere.
    shards: int = 2
    index: IndexOptions = DEFAULT_OPTIONS
    seed: int = 0
    text_kind: str = text_encoder.DEFAULT_KIND
    text_words: Path | None = None  # A fastText .bin file; None: word vectors are trained.
    keep_text_encoder: KeepTextEncoder = KeepTextEncoder.AUTO
    synonyms: tuple[Path, ...] = ()  # Dictionaries of the shop's own, beside the default ones.
    table: TableOptions = DEFAULT_TABLE_OPTIONS  # How the products file is read.
    engine: Engine = field(default_factory=LocalEngine)  # What builds the indexes of shards.
    encode_by_tasks: bool = False  # Photos and texts by tasks of the engine; else by this process.
    drop_unused_features: bool = False  # Vectors that no product of this catalogue needs; others may need them.
    strict: bool = False
    max_rejected: MaxRejected | None = None  # With more rejected rows nothing is built; None: any number.


@dataclass(slots=True)
class UpdateReport:
    """What an update read, trained, encoded and built, and how long each stage took."""

    catalogue: CatalogueReport
    version: str = ""
    text_artifact: Path | None = None
    text_trained: bool = False  # Whether this update trained the text encoder.
    text_reason: str = ""  # Why it was trained, or was not.
    text_fit: Mapping[str, Any] = field(default_factory=dict)  # The figures that decided it; empty: none did.
    product_artifact: Path | None = None
    no_product_space_reason: str = ""  # Why there is no product space; empty: there is one.
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    # The spaces that words alone are searched in, with their shares, and the figures that decided; empty: not measured.
    text_shares: dict[str, float] = field(default_factory=dict)
    text_figures: Mapping[str, Any] = field(default_factory=dict)
    # The score from which products are near-duplicates, by space; None: it could not be measured.
    duplicates: dict[str, DuplicatesThreshold | None] = field(default_factory=dict)
    choices: dict[str, RecipeChoice | None] = field(default_factory=dict)  # None: the space needs no measurement.
    encoded: dict[str, int] = field(default_factory=dict)
    features: dict[str, dict[str, int]] = field(default_factory=dict)  # What compaction did, by kind and encoder.
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def encoders(self) -> dict[int, Path]:
        """The artifacts of the encoders that belong to the version, by space."""
        artifacts = {SPACE_TEXT: self.text_artifact, SPACE_PRODUCT: self.product_artifact}
        return {space: artifact for space, artifact in artifacts.items() if artifact is not None}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds that the block takes."""
        start_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start_s, 3)

    def as_json(self) -> dict[str, Any]:
        return self.catalogue.as_json() | {
            "version": self.version,
            "text_artifact": str(self.text_artifact) if self.text_artifact else None,
            "text_trained": self.text_trained,
            "text_reason": self.text_reason,
            "text_fit": self.text_fit,
            "product_artifact": str(self.product_artifact) if self.product_artifact else None,
            "no_product_space": self.no_product_space_reason,
            "spaces": self.spaces,
            "text_shares": self.text_shares,
            "text_figures": self.text_figures,
            "duplicates": {name: None if each is None else asdict(each) for name, each in self.duplicates.items()},
            "auto": {name: None if choice is None else asdict(choice) for name, choice in self.choices.items()},
            "encoded": self.encoded,
            "features": self.features,
            "seconds": self.seconds,
        }


@dataclass(slots=True)
class _Catalogue:
    """The valid products read so far, the line of each, and the digest of its photo (None: no photo)."""

    products: list[CatalogueProduct] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    photo_digests: list[str | None] = field(default_factory=list)

    def copied(self, seed: int) -> CopiedProducts:
        """The held-out products of which copies are made, to measure by them from which score products are the same."""
        return CopiedProducts(products=self.products, photo_digests=self.photo_digests, seed=seed)

    def table(self) -> pa.Table:
        return pa.table({name: [getattr(product, name) for product in self.products] for name in FIELDS})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Work:
    """Where an update reads and writes vectors, and files that it needs while it runs."""

    store: FeatureStore
    scratch: Path


async def update(options: UpdateOptions) -> UpdateReport:
    """Build a new version of the index and make it CURRENT. Raises OperatorError and ServiceError."""
    report = UpdateReport(CatalogueReport(strict=options.strict, max_rejected=options.max_rejected))
    catalogue, store = _Catalogue(), FeatureStore(options.feature_store, notice=report.catalogue.notice)
    with lock_directory(options.location / _WORK) as directory, tempfile.TemporaryDirectory(dir=directory) as scratch:
        work = _Work(store=store, scratch=Path(scratch))
        spaces: dict[int, SpaceVectors] = {}
        with report.stage("products"):
            source = await _open_source(options, work.scratch)
        with report.stage("photos"):
            image = await _read_and_encode_photos(options, source, catalogue, report, work)
        report.catalogue.check_rejected()
        if not catalogue.products:
            raise BadCatalogue(f"{source.name}: no valid product in it")
        if image is not None:
            spaces[SPACE_IMAGE] = image[0]
        if (text := _text_space(options, catalogue, report, work)) is not None:
            spaces[SPACE_TEXT] = text
        if not spaces:
            raise BadCatalogue(f"{source.name}: no product has a photo or a word, so none can be compared")
        if (product := _product_space(options, catalogue, spaces, report, work.scratch)) is not None:
            spaces[SPACE_PRODUCT] = product
        choice = _spaces_of_words(catalogue, spaces, report, seed=options.seed)
        thresholds = _duplicates(
            catalogue, spaces, image[1] if image else None, report, work.scratch, seed=options.seed
        )
        _name_unfindable(catalogue, spaces, report.catalogue, source.table.path.name)
        with report.stage("index"):
            report.version = build(
                options.location,
                catalogue.table(),
                spaces,
                shards=options.shards,
                options=options.index,
                seed=options.seed,
                threads=len(os.sched_getaffinity(0)),
                engine=options.engine,
                text_shares=choice.shares,
                duplicates=thresholds,
                encoders=report.encoders,
            )
        with report.stage("features"):
            _compact_features(options, catalogue, spaces, report, store)
    for number, space in sorted(spaces.items()):
        report.spaces[space_name(number)] = {"encoder": space.encoder, "vectors": len(space.rows)}
    manifest = version.read_manifest(options.location, report.version)
    report.choices = {entry.name: entry.choice for entry in manifest.spaces}
    return report


@dataclass(frozen=True, slots=True, kw_only=True)
class _Source:
    """Where the products come from."""

    name: str  # For messages.
    table: Table
    photos: Path | None  # The directory that paths of photos are below.
    gateway: str = ""  # Empty: a directory.

    @asynccontextmanager
    async def photo_sources(
        self, store: FeatureStore, features: VectorTable, encoder: str
    ) -> AsyncIterator[PhotoSources]:
        """Where its photos are that this encoder is to encode."""
        if not self.gateway:
            yield PhotoSources(directory=self.photos, known=FetchedPhotos(store.photos(), features))
            return
        roots = ["", *([str(self.photos.resolve())] if self.photos else [])]
        fetched = FetchedPhotos(store.photos(), features, roots)
        loop = asyncio.get_running_loop()
        async with Gateway(self.gateway) as gateway:

            def served(product_ids: Sequence[str]) -> Mapping[str, F32]:  # On the thread that reads the products.
                vectors = served_catalogue.image_vectors(gateway, product_ids, encoder=encoder, dim=features.dim)
                return asyncio.run_coroutine_threadsafe(vectors, loop).result()

            known = ServedPhotos(served, features, fetched, self.photos)
            yield PhotoSources(directory=self.photos, known=known, as_stated=True)


async def _open_source(options: UpdateOptions, scratch: Path) -> _Source:
    """The catalogue; or the products that the gateway serves, written to a file."""
    if options.catalogue is not None:
        table = open_products(options.catalogue, options.table)
        return _Source(name=str(options.catalogue), table=table, photos=options.catalogue)
    async with Gateway(options.gateway) as gateway:
        count = await served_catalogue.save_products(gateway, scratch)
    if not count:
        raise BadCatalogue(f"{options.gateway}: serves no product")
    table = open_products(scratch, TableOptions(revision_unit="none"))  # The gateway has checked the revisions.
    return _Source(name=options.gateway, table=table, photos=options.photos, gateway=options.gateway)


async def _read_and_encode_photos(
    options: UpdateOptions,
    source: _Source,
    catalogue: _Catalogue,
    report: UpdateReport,
    work: _Work,
) -> tuple[SpaceVectors, VectorTable] | None:
    """Read the catalogue, and encode its photos at the same time. Returns their vectors, and what they are stored in.

    None if no product has a photo, or if there is no encoder.
    """
    async with _connect_encoder(options) as encoder:
        if encoder is None:
            sources = PhotoSources(directory=source.photos, as_stated=bool(source.gateway))
            for _ in _read_photos(
                sources,
                source.table,
                catalogue,
                report.catalogue,
                None,
                side_px=DEFAULT_INPUT_PX,
                read=_reader(options, ""),
            ):
                pass  # Photos are decoded all the same: which rows are bad must not depend on the spaces built.
            return None
        probe = await image_encoding.probe(encoder)
        features = work.store.vectors("image", encoder=probe.encoder, dim=probe.vectors.shape[1])
        take_over_photos(work.store.root, probe.encoder, features, report.catalogue.notice)
        read = _reader(options, probe.encoder)
        async with source.photo_sources(work.store, features, probe.encoder) as sources:
            photos = _read_photos(
                sources, source.table, catalogue, report.catalogue, features, side_px=encoder.input_px, read=read
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
    return SpaceVectors(encoder=probe.encoder, vectors=vectors, rows=rows), features


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
    sources: PhotoSources,
    table: Table,
    catalogue: _Catalogue,
    report: CatalogueReport,
    features: VectorTable | None,
    *,
    side_px: int,
    read: ReadProducts,
) -> Iterator[Photo]:
    """Read the products into `catalogue` and `report`, and yield their photos, decoded to squares of `side_px`."""
    stored: Container[str] = () if features is None else features
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


def _duplicates(
    catalogue: _Catalogue,
    spaces: Mapping[int, SpaceVectors],
    image_features: VectorTable | None,
    report: UpdateReport,
    scratch: Path,
    *,
    seed: int,
) -> dict[int, DuplicatesThreshold]:
    """The score from which products are near-duplicates, of each space in which it can be measured."""
    with report.stage("duplicates"):
        copies = catalogue.copied(seed).vectors(
            image_features,
            text_encoder.load(report.text_artifact) if report.text_artifact else None,
            product_encoder.load(report.product_artifact) if report.product_artifact else None,
            scratch / "copies.npy",
        )
        photos = [digest or "" for digest in catalogue.photo_digests]
        thresholds = duplicates.measure_thresholds(catalogue.products, photos, spaces, copies, seed=seed)
    report.duplicates = {space_name(space): thresholds.get(space) for space in sorted(spaces)}
    return thresholds


def _name_unfindable(
    catalogue: _Catalogue, spaces: Mapping[int, SpaceVectors], report: CatalogueReport, file: str
) -> None:
    """Report the products that have a vector in no space."""
    found = np.zeros(len(catalogue.products), dtype=bool)
    for space in spaces.values():
        found[space.rows] = True
    reasons = ["no word that the text encoder knows" if SPACE_TEXT in spaces else "there is no text space"]
    reasons.insert(0, "no usable photo" if SPACE_IMAGE in spaces else "there is no image space")
    for row in np.flatnonzero(~found):
        report.note_unfindable(catalogue.products[row].id, ", ".join(reasons), file, catalogue.lines[row])


def _text_space(
    options: UpdateOptions, catalogue: _Catalogue, report: UpdateReport, work: _Work
) -> SpaceVectors | None:
    """The text vectors, by an encoder trained on this catalogue; None if no product has a word."""
    try:
        with report.stage("training"), progress_bar("training the text encoder"):
            chosen = text_encoding.choose_text_encoder(
                catalogue.products,
                options.artifacts,
                TextEncoderSettings(
                    kind=options.text_kind,
                    seed=options.seed,
                    word_vectors=options.text_words,
                    synonyms=options.synonyms,
                ),
                serving=_serving_text_encoder(options.location),
                keep=options.keep_text_encoder,
            )
    except BadCatalogue:
        return None  # The texts contain no word. The products may still have photos.
    report.text_trained, report.text_reason, report.text_fit = chosen.trained, chosen.reason, chosen.fit
    artifact = chosen.artifact
    with report.stage("texts"), progress_bar("encoding texts") as count:
        model = text_encoder.load(artifact)
        features = work.store.vectors("text", encoder=model.fingerprint, dim=model.dim)
        vectors, report.encoded["texts"] = text_encoding.encode_products(
            catalogue.products,
            model,
            features,
            work.scratch / "text.npy",
            count,
            encode=partial(text_tasks.encode_batches, options.engine, artifact) if options.encode_by_tasks else None,
        )
    # A text without a word that the encoder knows has a vector of zeros, which is similar to nothing.
    rows = np.flatnonzero(vectors.any(axis=1)).astype(np.int64)
    if not len(rows):
        return None
    report.text_artifact = artifact
    nonzero = vectors if len(rows) == len(vectors) else vectors[rows]
    return SpaceVectors(encoder=model.fingerprint, vectors=nonzero, rows=rows)


def _compact_features(
    options: UpdateOptions,
    catalogue: _Catalogue,
    spaces: Mapping[int, SpaceVectors],
    report: UpdateReport,
    store: FeatureStore,
) -> None:
    """Merge small parts of the vectors that were read, and drop those of no product if that is asked for.

    The version is built by now: what goes wrong is told, and the next update tries again.
    """
    live: dict[int, Callable[[], list[str]]] = {
        SPACE_IMAGE: lambda: [
            *(digest for digest in catalogue.photo_digests if digest is not None),
            *catalogue.copied(options.seed).copy_digests(),
        ],
        SPACE_TEXT: lambda: text_encoding.digests_of(catalogue.products),
    }
    for space, digests in live.items():
        if space not in spaces:
            continue
        keys = keys_of(digests()) if options.drop_unused_features else None
        partition = Partition(kind=space_name(space), encoder=spaces[space].encoder)
        try:
            done = store.compact(partition, CompactionOptions(live=keys))
        except OperatorError as error:
            report.catalogue.notice(f"features not compacted: {error}")
        else:
            report.features[str(partition)] = asdict(done)


def _serving_text_encoder(location: Path) -> str:
    """The fingerprint of the text encoder of the current version; empty if there is none."""
    try:
        manifest = version.read_manifest(location, version.read_current(location))
    except BadArtifact:
        return ""
    return next((space.encoder for space in manifest.spaces if space.name == space_name(SPACE_TEXT)), "")


def _spaces_of_words(
    catalogue: _Catalogue, spaces: Mapping[int, SpaceVectors], report: UpdateReport, *, seed: int
) -> SpaceChoice:
    """The spaces that words alone are best searched in, measured on products that no encoder was trained with."""
    if report.text_artifact is None or report.product_artifact is None:
        return SpaceChoice(shares={}, figures={})
    with report.stage("queries"):
        choice = product_fusion.choose_spaces_of_words(
            product_fusion.ModalityVectors(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT]),
            catalogue.products,
            text_encoder.load(report.text_artifact),
            product_encoder.load(report.product_artifact),
            seed=seed,
        )
    report.text_shares = {space_name(space): share for space, share in choice.shares.items()}
    report.text_figures = choice.figures
    return choice


def _product_space(
    options: UpdateOptions,
    catalogue: _Catalogue,
    spaces: Mapping[int, SpaceVectors],
    report: UpdateReport,
    scratch: Path,
) -> SpaceVectors | None:
    """The fused photo and text vectors; None, with the reason in the report, if no better than either alone."""
    if not (SPACE_IMAGE in spaces and SPACE_TEXT in spaces):
        report.no_product_space_reason = f"there is no {'text' if SPACE_IMAGE in spaces else 'image'} space to fuse"
        return None
    inputs = product_fusion.ModalityVectors(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT])
    try:
        with report.stage("fusing"), progress_bar("training the product encoder"):
            artifact, _ = product_fusion.train_product_encoder(
                inputs, catalogue.products, options.artifacts, seed=options.seed
            )
            space = product_fusion.fuse(inputs, product_encoder.load(artifact), scratch / "product.npy")
    except QualityGateFailed as error:
        report.no_product_space_reason = str(error)
        return None
    report.product_artifact = artifact
    return space
