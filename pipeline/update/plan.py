"""The step `plan`: what a catalogue changes, and what an update of it will cost. Reads files.

A run counts the products that are new, changed or removed. A dry run, which computes nothing else, also reads photos
and texts, and says how many are not stored, whether the text encoder would be trained, and what that takes at the rates
of the last release.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from encoders.image.isolated_decoder import Pixels
from encoders.text import model as text_encoder
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.product_rules import CatalogueProduct, embedded_texts, is_photo_url
from lookalike.releases import version
from lookalike.releases.records import ReleaseRecord
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE
from pipeline import text_encoding
from pipeline.catalogue import CatalogueRow, read_table
from pipeline.features.store import FeatureStore, Partition
from pipeline.photos import open_photo
from pipeline.product import PhotoError
from pipeline.update.changes import Changes, LiveProducts, compare
from pipeline.update.options import UpdateOptions
from pipeline.update.source import Source
from pipeline.update.train import serving_text_encoder

_MIN_RATED = 100  # Fewer photos, texts or products say nothing of a rate.


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an update will do. None: not known."""

    changes: Changes
    rejected: int
    photos: int | None = None  # To encode.
    texts: int | None = None
    trains_text_encoder: bool | None = None
    text_reason: str = ""
    seconds: float | None = None  # By the rates of the last release; less what cannot be foretold.
    bytes: int | None = None  # Of the new version.

    def as_json(self) -> dict[str, Any]:
        return {
            "changes": self.changes.as_json(),
            "rejected": self.rejected,
            "photos": self.photos,
            "texts": self.texts,
            "trains_text_encoder": self.trains_text_encoder,
            "text_reason": self.text_reason,
            "seconds": self.seconds,
            "bytes": self.bytes,
        }

    def __str__(self) -> str:
        lines = [f"plan: {self.changes}", f"  rows that would be rejected: {self.rejected:,}"]
        if self.changes.fields:
            fields = ", ".join(f"{name} of {count:,}" for name, count in self.changes.fields.most_common())
            lines.append(f"  changed: {fields}")
        if self.photos is not None:
            lines.append(f"  photos to encode: {self.photos:,}")
        if self.texts is not None:
            lines.append(f"  texts to encode: {self.texts:,}")
        if self.trains_text_encoder is not None:
            does = "would be trained" if self.trains_text_encoder else "would be kept"
            lines.append(f"  the text encoder {does}: {self.text_reason}")
        if self.seconds is not None:
            lines.append(f"  at the rates of the last release: {self.seconds:,.0f} s")
        if self.bytes is not None:
            lines.append(f"  the version: {self.bytes / (1 << 20):,.1f} MiB")
        return "\n".join(lines)


def plan(source: Source, live: LiveProducts | None) -> Plan:
    """Count what changes."""
    products, rejected = _read(source, live)
    return Plan(changes=products, rejected=rejected)


def _read(source: Source, live: LiveProducts | None, kept: list[CatalogueProduct] | None = None) -> tuple[Changes, int]:
    rejected = 0

    def valid_products() -> Iterator[CatalogueProduct]:
        nonlocal rejected
        for row in read_table(source.checked_photos, source.table):
            if not isinstance(row, CatalogueRow):
                rejected += 1
                continue
            if kept is not None:
                kept.append(row.product)
            count()
            yield row.product

    with progress_bar("comparing with what serves") as count:
        changes = compare(valid_products(), live)
    return changes, rejected


def plan_in_full(
    options: UpdateOptions, source: Source, live: LiveProducts | None, *, image_encoder: str, last: ReleaseRecord | None
) -> Plan:
    """Count what changes, and what is to be computed. Writes nothing.

    image_encoder: the fingerprint of what photos will be encoded with; empty: none are. last: the record of the
    version that serves.
    """
    products: list[CatalogueProduct] = []
    changes, rejected = _read(source, live, products)
    if not products:
        raise BadCatalogue(f"{source.name}: no valid product in it")
    store = FeatureStore(options.feature_store, notice=lambda _: None)
    photos = _photos_to_encode(source, products, store, image_encoder)
    text = text_encoding.foretell_text_encoder(
        products,
        options.artifacts,
        options.text_settings,
        serving=serving_text_encoder(options.location),
        keep=options.keep_text_encoder,
    )
    trains = isinstance(text, str)
    texts = _texts_to_encode(products, store, None if isinstance(text, str) else text.artifact)
    manifest = None if live is None else version.read_manifest(options.location, live.name)
    size = None if manifest is None else sum(file.bytes for file in manifest.files.values())
    return Plan(
        changes=changes,
        rejected=rejected,
        photos=photos,
        texts=texts,
        trains_text_encoder=trains,
        text_reason=text if isinstance(text, str) else text.reason,
        seconds=_seconds(last, products=len(products), photos=photos, texts=texts, trains=trains),
        bytes=None
        if manifest is None or size is None
        else round(size * len(products) / max(1, sum(manifest.products))),
    )


def _photos_to_encode(
    source: Source, products: Sequence[CatalogueProduct], store: FeatureStore, image_encoder: str
) -> int:
    """The photos, each once, that are not stored. Those at URLs are not fetched, so they do not count."""
    directory = source.photos
    paths = {product.image for product in products if product.image and not is_photo_url(product.image)}
    if directory is None or not image_encoder:
        return 0

    def digest(path: str) -> str:
        try:
            return open_photo(directory / path, _decode_nothing, _Everything()).digest
        except PhotoError:
            return ""

    with ThreadPoolExecutor() as threads, progress_bar("reading photos", total=len(paths)) as count:
        digests = set()
        for each in threads.map(digest, sorted(paths)):
            digests.add(each)
            count()
    found = sorted(digests - {""})
    dim = store.status(Partition(kind="image", encoder=image_encoder)).dim
    stored = store.vectors("image", encoder=image_encoder, dim=dim)
    return len(found) - int(stored.contains(found).sum())


class _Everything:
    """The digests of photos that need not be decoded: all."""

    def __contains__(self, digest: object) -> bool:
        return True


def _decode_nothing(data: bytes, /) -> Pixels:
    raise AssertionError("no photo is decoded to plan an update")


def _texts_to_encode(products: Sequence[CatalogueProduct], store: FeatureStore, artifact: Path | None) -> int:
    """The texts, each once, that are not stored. artifact: the encoder, None: it is still to be trained."""
    texts = {next(iter(embedded_texts(product.title, product.description)), "") for product in products}
    digests = sorted({text_encoding.text_digest(text) for text in texts})
    if artifact is None:
        return len(digests)
    model = text_encoder.load(artifact)
    stored = store.vectors("text", encoder=model.fingerprint, dim=model.dim).contains(digests)
    return len(digests) - int(stored.sum())


def _seconds(last: ReleaseRecord | None, *, products: int, photos: int, texts: int, trains: bool) -> float | None:
    """None: the last release has no record, or it computed too little to tell."""
    if last is None or last.report.get("products", 0) < _MIN_RATED:
        return None
    before, encoded, seconds = float(last.report["products"]), last.report["encoded"], last.report["seconds"]
    total = 0.0
    for stage, number in (("photos", photos), ("texts", texts)):
        if number and encoded.get(stage, 0) < _MIN_RATED:
            return None
        total += number * float(seconds.get(stage, 0.0)) / max(1, encoded.get(stage, 0))
    if trains and not last.report.get("text_trained"):
        return None
    stages = ["products", "index", "duplicates", "queries", "fusing", *(["training"] if trains else [])]
    total += sum(float(seconds.get(stage, 0.0)) for stage in stages) * products / before
    steps: Mapping[str, float] = last.steps
    total += sum(steps.get(step, 0.0) for step in ("verify", "publish", "watch"))
    return round(total, 1)


def image_encoder_of(location: Path, name: str) -> str:
    """The fingerprint of a version's image encoder; empty: it has none, or it cannot be read."""
    try:
        manifest = version.read_manifest(location, name)
    except BadArtifact:
        return ""
    return next((space.encoder for space in manifest.spaces if space.name == space_name(SPACE_IMAGE)), "")
