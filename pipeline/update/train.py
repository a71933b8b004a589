"""The step `train`: the text and product encoder of a catalogue, and the spaces they give. Reads and writes files.

An encoder is trained once on the same inputs, and encodes a text once: DIRECTORY/trained-<inputs>.json and the feature
store say what there is already. What this step decided is taken over by a run that goes on after it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from encoders.product import model as product_encoder
from encoders.product.train import QualityGateFailed
from encoders.text import model as text_encoder
from index.building.build import SpaceVectors
from lookalike.cli.progress import progress_bar
from lookalike.errors import BadArtifact, BadCatalogue
from lookalike.releases import version
from lookalike.releases.manifest import DuplicatesThreshold
from lookalike.spaces import space_name, space_number
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT
from pipeline import duplicates, product_fusion, text_encoding, text_tasks
from pipeline.text_encoding import ChosenTextEncoder
from pipeline.update.encode import EncodedCatalogue, Work
from pipeline.update.read_catalogue import ReadCatalogue
from pipeline.update.report import UpdateReport


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What was decided: the encoders, and what was measured with them."""

    text: ChosenTextEncoder | None = None  # None: no product has a word.
    product_artifact: Path | None = None
    no_product_space_reason: str = ""
    text_shares: Mapping[str, float] = field(default_factory=dict)
    text_figures: Mapping[str, Any] = field(default_factory=dict)
    duplicates: Mapping[str, DuplicatesThreshold] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        text = self.text
        return {
            "text": None if text is None else {**asdict(text), "artifact": str(text.artifact)},
            "product_artifact": str(self.product_artifact) if self.product_artifact else None,
            "no_product_space_reason": self.no_product_space_reason,
            "text_shares": dict(self.text_shares),
            "text_figures": dict(self.text_figures),
            "duplicates": {name: asdict(threshold) for name, threshold in self.duplicates.items()},
        }

    @classmethod
    def from_json(cls, body: Mapping[str, Any]) -> Training | None:
        """The inverse of `as_json`; None: an encoder is not there any more, so all is decided again."""
        text, product = body["text"], body["product_artifact"]
        try:
            if text is not None:
                text_encoder.read_manifest(Path(text["artifact"]))
            if product is not None:
                product_encoder.read_manifest(Path(product))
        except BadArtifact:
            return None
        return cls(
            text=None if text is None else ChosenTextEncoder(**{**text, "artifact": Path(text["artifact"])}),
            product_artifact=None if product is None else Path(product),
            no_product_space_reason=body["no_product_space_reason"],
            text_shares=body["text_shares"],
            text_figures=body["text_figures"],
            duplicates={name: DuplicatesThreshold(**each) for name, each in body["duplicates"].items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainedSpaces:
    """The vectors of a catalogue by space, by the encoders that were decided on."""

    training: Training
    spaces: Mapping[int, SpaceVectors]

    @property
    def artifacts(self) -> Mapping[int, Path]:
        """The encoders that go into the version, by space."""
        training, artifacts = self.training, dict[int, Path]()
        if SPACE_TEXT in self.spaces and training.text is not None:
            artifacts[SPACE_TEXT] = training.text.artifact
        if SPACE_PRODUCT in self.spaces and training.product_artifact is not None:
            artifacts[SPACE_PRODUCT] = training.product_artifact
        return artifacts

    @property
    def text_shares(self) -> dict[int, float]:
        return {space_number(name): share for name, share in self.training.text_shares.items()}

    @property
    def duplicates(self) -> dict[int, DuplicatesThreshold]:
        return {space_number(name): threshold for name, threshold in self.training.duplicates.items()}


def train(work: Work, encoded: EncodedCatalogue, *, decided: Training | None = None) -> TrainedSpaces:
    """Decide on the encoders, and encode texts and products. decided: what an earlier run of the same inputs did.

    Raises BadCatalogue if no product has a photo or a word.
    """
    catalogue, photos = encoded.catalogue, encoded.photos
    spaces: dict[int, SpaceVectors] = {} if photos is None else {SPACE_IMAGE: photos.vectors}
    chosen = decided.text if decided is not None else _choose_text_encoder(work, catalogue)
    training = decided or Training(text=chosen)
    if chosen is not None and (text := _text_space(work, catalogue, chosen)) is not None:
        spaces[SPACE_TEXT] = text
    if not spaces:
        raise BadCatalogue(f"{work.options.source}: no product has a photo or a word, so none can be compared")
    product = _product_space(work, catalogue, spaces, decided=decided)
    if isinstance(product, str):
        training = replace(training, no_product_space_reason=product)
    else:
        artifact, spaces[SPACE_PRODUCT] = product
        training = replace(training, product_artifact=artifact)
    if decided is None:
        training = _measure(work, encoded, TrainedSpaces(training=training, spaces=spaces))
    _state(work.report, training, spaces)
    for used in TrainedSpaces(training=training, spaces=spaces).artifacts.values():
        with suppress(OSError):  # A directory that may only be read is not cleared either.
            os.utime(used)  # What no update has used for a while is removed: pipeline/update/retain.py.
    return TrainedSpaces(training=training, spaces=spaces)


def _state(report: UpdateReport, training: Training, spaces: Mapping[int, SpaceVectors]) -> None:
    if training.text is not None:
        report.text_trained, report.text_reason = training.text.trained, training.text.reason
        report.text_fit = training.text.fit
        report.text_artifact = training.text.artifact if SPACE_TEXT in spaces else None
    report.product_artifact = training.product_artifact
    report.no_product_space_reason = training.no_product_space_reason
    report.text_shares, report.text_figures = dict(training.text_shares), training.text_figures
    report.duplicates = {space_name(space): training.duplicates.get(space_name(space)) for space in sorted(spaces)}


def _choose_text_encoder(work: Work, catalogue: ReadCatalogue) -> ChosenTextEncoder | None:
    """None if the texts contain no word: the products may still have photos."""
    options = work.options
    try:
        with work.report.stage("training"), progress_bar("training the text encoder"):
            return text_encoding.choose_text_encoder(
                catalogue.products,
                options.artifacts,
                options.text_settings,
                serving=serving_text_encoder(options.location),
                keep=options.keep_text_encoder,
            )
    except BadCatalogue:
        return None


def serving_text_encoder(location: Path) -> str:
    """The fingerprint of the text encoder of the current version; empty if there is none."""
    try:
        manifest = version.read_manifest(location, version.read_current(location))
    except BadArtifact:
        return ""
    return next((space.encoder for space in manifest.spaces if space.name == space_name(SPACE_TEXT)), "")


def _text_space(work: Work, catalogue: ReadCatalogue, chosen: ChosenTextEncoder) -> SpaceVectors | None:
    """The text vectors; None if no text has a word that the encoder knows."""
    options, report = work.options, work.report
    with report.stage("texts"), progress_bar("encoding texts") as count:
        model = text_encoder.load(chosen.artifact)
        features = work.store.vectors("text", encoder=model.fingerprint, dim=model.dim)
        by_tasks = partial(text_tasks.encode_batches, options.engine, chosen.artifact)
        vectors, report.encoded["texts"] = text_encoding.encode_products(
            catalogue.products,
            model,
            features,
            work.scratch / "text.npy",
            count,
            encode=by_tasks if options.encode_by_tasks else None,
        )
    # A text without a word that the encoder knows has a vector of zeros, which is similar to nothing.
    rows = np.flatnonzero(vectors.any(axis=1)).astype(np.int64)
    if not len(rows):
        return None
    nonzero = vectors if len(rows) == len(vectors) else vectors[rows]
    return SpaceVectors(encoder=model.fingerprint, vectors=nonzero, rows=rows)


def _product_space(
    work: Work, catalogue: ReadCatalogue, spaces: Mapping[int, SpaceVectors], *, decided: Training | None
) -> tuple[Path, SpaceVectors] | str:
    """The encoder and the fused photo and text vectors; or why there are none: no better than either alone."""
    options = work.options
    if not (SPACE_IMAGE in spaces and SPACE_TEXT in spaces):
        return f"there is no {'text' if SPACE_IMAGE in spaces else 'image'} space to fuse"
    if decided is not None and decided.product_artifact is None:
        return decided.no_product_space_reason
    inputs = product_fusion.ModalityVectors(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT])
    try:
        with work.report.stage("fusing"), progress_bar("training the product encoder"):
            artifact = decided.product_artifact if decided is not None else None
            if artifact is None:
                artifact, _ = product_fusion.train_product_encoder(
                    inputs, catalogue.products, options.artifacts, seed=options.seed
                )
            return artifact, product_fusion.fuse(inputs, product_encoder.load(artifact), work.scratch / "product.npy")
    except QualityGateFailed as error:
        return str(error)


def _measure(work: Work, encoded: EncodedCatalogue, trained: TrainedSpaces) -> Training:
    """Measure where words alone are best searched, and from which score products are near-duplicates."""
    options, report, catalogue, photos = work.options, work.report, encoded.catalogue, encoded.photos
    spaces, models = trained.spaces, trained.artifacts
    text = text_encoder.load(models[SPACE_TEXT]) if SPACE_TEXT in models else None
    product = product_encoder.load(models[SPACE_PRODUCT]) if SPACE_PRODUCT in models else None
    training = trained.training
    if text is not None and product is not None:
        with report.stage("queries"):
            choice = product_fusion.choose_spaces_of_words(
                product_fusion.ModalityVectors(image=spaces[SPACE_IMAGE], text=spaces[SPACE_TEXT]),
                catalogue.products,
                text,
                product,
                seed=options.seed,
            )
        shares = {space_name(space): share for space, share in choice.shares.items()}
        training = replace(training, text_shares=shares, text_figures=choice.figures)
    with report.stage("duplicates"):
        copies = catalogue.copied(options.seed).vectors(
            photos.features if photos is not None else None, text, product, work.scratch / "copies.npy"
        )
        digests = [digest or "" for digest in catalogue.photo_digests]
        thresholds = duplicates.measure_thresholds(catalogue.products, digests, spaces, copies, seed=options.seed)
    return replace(training, duplicates={space_name(space): threshold for space, threshold in thresholds.items()})
