"""Load the encoders of a version: pin their files, load them, warm them up. Does I/O."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeVar
from weakref import WeakValueDictionary

from encoders.product import model as product_model
from encoders.product.model import ProductModel
from encoders.text import model as text_model
from encoders.text.model import TextModel
from encoders.text_serving.encoder_set import EncoderSet
from lookalike.errors import BadArtifact
from lookalike.releases.location import Location
from lookalike.releases.manifest import Manifest
from lookalike.releases.names import ENCODERS
from lookalike.releases.served_versions import VersionHandle
from lookalike.releases.settings import PinFiles
from lookalike.spaces import space_name
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT

Model = TypeVar("Model", TextModel, ProductModel)

IMAGE, TEXT, PRODUCT = map(space_name, (SPACE_IMAGE, SPACE_TEXT, SPACE_PRODUCT))


class EncoderLoader:
    """Loads the encoders of a location's versions by their names. Versions of one encoder share it in memory."""

    def __init__(self, location: Location, pin_files: PinFiles) -> None:
        self._location = location
        self._pin_files = pin_files
        # By fingerprint, as long as a version that has them is loaded: most nights keep the text encoder.
        self._texts: WeakValueDictionary[str, TextModel] = WeakValueDictionary()
        self._products: WeakValueDictionary[str, ProductModel] = WeakValueDictionary()

    def __call__(self, name: str) -> VersionHandle[EncoderSet]:
        """Raises OperatorError; BadArtifact where the version itself is at fault."""
        manifest = self._location.read_manifest(name)
        if not _kept_encoders(manifest, str(self._location)):
            return VersionHandle(name, EncoderSet())
        pinned = self._pin_files(manifest, ENCODERS)
        try:
            return VersionHandle(name, self._load(pinned.location / name / ENCODERS, manifest))
        finally:
            pinned.release()  # A loaded encoder needs its files no more.

    def _load(self, directory: Path, manifest: Manifest) -> EncoderSet:
        fingerprints = {space.name: space.encoder for space in manifest.spaces}
        text = product = None
        if TEXT in manifest.encoders:
            text = _shared(self._texts, fingerprints[TEXT], directory / TEXT, load_text_model)
        if PRODUCT in manifest.encoders:
            product = _shared(self._products, fingerprints[PRODUCT], directory / PRODUCT, product_model.load)
            _check_inputs(product, directory / PRODUCT, text=fingerprints.get(TEXT), image=fingerprints.get(IMAGE))
        return EncoderSet(text, product)


def load_artifacts(text_artifact: Path, product_artifact: Path | None) -> EncoderSet:
    """Load encoders that belong to no version. Raises BadArtifact."""
    text = load_text_model(text_artifact)
    if product_artifact is None:
        return EncoderSet(text)
    product = product_model.load(product_artifact)
    _check_inputs(product, product_artifact, text=text.fingerprint, image=product.image_encoder)
    return EncoderSet(text, product)


def load_text_model(artifact: Path) -> TextModel:
    """Load and warm up a text encoder. Raises BadArtifact."""
    model = text_model.load(artifact)
    model.encode(["warm up", "温まる"])
    return model


def _kept_encoders(manifest: Manifest, where: str) -> bool:
    """Whether the version has encoders among its files. Raises BadArtifact if one is missing.

    A version without a text space, as `lookalike index build` makes it, has none: it is searched by ids and vectors.
    """
    built_with = {space.name: space.encoder for space in manifest.spaces if space.name != IMAGE}
    missing = sorted(built_with.keys() - manifest.encoders.keys())
    if TEXT in built_with and missing:
        raise BadArtifact(f"{where}: version {manifest.version} lacks its encoder {built_with[missing[0]]}")
    return bool(manifest.encoders)


def _shared(
    loaded: WeakValueDictionary[str, Model], fingerprint: str, artifact: Path, load: Callable[[Path], Model]
) -> Model:
    if (model := loaded.get(fingerprint)) is None:
        model = load(artifact)
        if model.fingerprint != fingerprint:
            raise BadArtifact(f"{artifact}: is encoder {model.fingerprint}, the version was built with {fingerprint}")
        loaded[fingerprint] = model
    return model


def _check_inputs(product: ProductModel, artifact: Path, *, text: str | None, image: str | None) -> None:
    """Raise BadArtifact unless the product encoder was trained on vectors of these encoders."""
    for what, trained_on, encoder in (("text", product.text_encoder, text), ("image", product.image_encoder, image)):
        if trained_on != encoder:
            raise BadArtifact(f"{artifact}: trained on vectors of {trained_on}, but the {what} encoder is {encoder}")
