"""The product encoder: image and text vectors to a product vector, and to categories. Reads and writes artifacts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from encoders import artifact
from encoders.product.classifier import Classifier
from encoders.product.fusion import Fusion, LinearMap, Means, Modality
from lookalike.errors import BadArtifact
from lookalike.vectors import F32

FORMAT = 4  # Increased whenever the files, their meaning or the manifest change.
# The second was trained on vectors of an untrained image encoder; its fingerprint says so in every response.
KINDS = ("product", "product-untrained")
_MODALITIES = tuple(Modality)
_ARRAYS = (
    "centre_image",
    "centre_text",
    *(f"{modality.value}_{name}" for modality in _MODALITIES for name in ("weights", "offset", "thresholds")),
    "category_weights",
    "category_bias",
)
FILES = {kind: tuple(f"{name}.npy" for name in _ARRAYS) for kind in KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class CategoryPrediction:
    """The most likely categories of one product."""

    categories: Sequence[str]  # By descending probability, ties by name.
    probabilities: F32  # One per category.
    threshold: float  # The probability from which predictions have the requested precision; 2: none has.


@dataclass(frozen=True, slots=True, kw_only=True, weakref_slot=True)
class ProductModel:
    """A loaded product encoder and its classifier. Thread-safe. A zero row stands for a missing image or text."""

    fingerprint: str
    image_encoder: str  # Fingerprints of the encoders whose vectors it was trained on and accepts.
    text_encoder: str
    categories: Sequence[str]  # The classifier's categories, in order of name.
    metrics: Mapping[str, Any]  # Measured on held-out products during training.
    fusion: Fusion
    classifier: Classifier

    @property
    def dim(self) -> int:
        return self.fusion.dim

    @property
    def image_dim(self) -> int:
        return len(self.fusion.means.image)

    @property
    def text_dim(self) -> int:
        return len(self.fusion.means.text)

    def encode(self, images: F32, texts: F32) -> F32:
        """Encode images (n, image_dim) and texts (n, text_dim) to (n, dim) float32 of unit norm; zeros for neither.

        A vector is the same in any batch, to within 1e-6.
        """
        vectors = np.zeros((len(images), self.dim), dtype=np.float32)
        for modality, rows in _by_modality(images, texts):
            vectors[rows] = self.fusion.fuse(modality, images[rows], texts[rows])
        return vectors

    def classify(self, images: F32, texts: F32, *, limit: int, precision: float) -> list[CategoryPrediction]:
        """The `limit` most likely categories of each product. Raises ValueError for one with neither image nor text."""
        if not (images.any(axis=1) | texts.any(axis=1)).all():
            raise ValueError("a product with neither image nor text cannot be classified")
        predictions: dict[int, CategoryPrediction] = {}
        for modality, rows in _by_modality(images, texts):
            all_probabilities = self.classifier.probabilities(
                modality, self.fusion.fuse(modality, images[rows], texts[rows])
            )
            threshold = self.classifier.threshold(modality, precision)
            best = np.argsort(-all_probabilities, axis=1, kind="stable")[:, :limit]
            for row, columns, probabilities in zip(rows, best, all_probabilities, strict=True):
                names = [self.categories[column] for column in columns]
                predictions[int(row)] = CategoryPrediction(
                    categories=names, probabilities=probabilities[columns], threshold=threshold
                )
        return [predictions[row] for row in range(len(images))]


def _by_modality(images: F32, texts: F32) -> Iterator[tuple[Modality, npt.NDArray[np.int64]]]:
    """Split a batch by modality: yields each modality that occurs, and its rows."""
    has_image, has_text = images.any(axis=1), texts.any(axis=1)
    for modality, selected in (
        (Modality.BOTH, has_image & has_text),
        (Modality.IMAGE, has_image & ~has_text),
        (Modality.TEXT, has_text & ~has_image),
    ):
        if (rows := np.flatnonzero(selected)).size:
            yield modality, rows


def write(
    out: Path,
    *,
    fusion: Fusion,
    classifier: Classifier,
    categories: Sequence[str],
    image_encoder: str,
    text_encoder: str,
    metrics: Mapping[str, Any],
) -> str:
    """Write the artifact to the new directory `out`; return its fingerprint. Raises OperatorError if `out` exists."""

    def write_files(staging: Path) -> Mapping[str, Any]:
        for name, array in _arrays(fusion, classifier).items():
            np.save(staging / f"{name}.npy", array)
        return {
            "image_encoder": image_encoder,
            "text_encoder": text_encoder,
            "blocks": list(fusion.sizes.items()),
            "temperatures": {modality.value: classifier.temperatures[modality] for modality in _MODALITIES},
            "categories": list(categories),
            "metrics": metrics,
        }

    kind = KINDS[1] if "-untrained-" in image_encoder else KINDS[0]
    return artifact.write_artifact(out, kind=kind, format_version=FORMAT, files=FILES, write_files=write_files)


def _arrays(fusion: Fusion, classifier: Classifier) -> dict[str, F32]:
    arrays = {"centre_image": fusion.means.image, "centre_text": fusion.means.text}
    for modality in _MODALITIES:
        arrays[f"{modality.value}_weights"] = fusion.maps[modality].weights
        arrays[f"{modality.value}_offset"] = fusion.maps[modality].offset
        arrays[f"{modality.value}_thresholds"] = classifier.thresholds[modality]
    return {**arrays, "category_weights": classifier.weights, "category_bias": classifier.bias}


def load(directory: Path) -> ProductModel:
    """Load an artifact. Raises BadArtifact, naming the file that is missing, damaged or of another format."""
    manifest = read_manifest(directory)
    arrays = artifact.load_arrays(directory, _ARRAYS)
    model = ProductModel(
        fingerprint=manifest["fingerprint"],
        image_encoder=manifest["image_encoder"],
        text_encoder=manifest["text_encoder"],
        categories=manifest["categories"],
        metrics=manifest["metrics"],
        fusion=Fusion(
            means=Means(image=arrays["centre_image"], text=arrays["centre_text"]),
            maps={
                modality: LinearMap(
                    weights=arrays[f"{modality.value}_weights"], offset=arrays[f"{modality.value}_offset"]
                )
                for modality in _MODALITIES
            },
            sizes=dict(manifest["blocks"]),
        ),
        classifier=Classifier(
            weights=arrays["category_weights"],
            bias=arrays["category_bias"],
            temperatures={modality: manifest["temperatures"][modality.value] for modality in _MODALITIES},
            thresholds={modality: arrays[f"{modality.value}_thresholds"] for modality in _MODALITIES},
        ),
    )
    _check(directory, model)
    return model


def read_manifest(directory: Path) -> dict[str, Any]:
    """Read the manifest and verify every file against it. Raises BadArtifact, as `load` does."""
    return artifact.read_manifest(directory, format_version=FORMAT, files=FILES)


def _check(directory: Path, model: ProductModel) -> None:
    """Check that the shapes of the arrays match. The digests do, so a mismatch was written by another program."""
    widths = {
        Modality.IMAGE: model.image_dim,
        Modality.TEXT: model.text_dim,
        Modality.BOTH: model.image_dim + model.text_dim,
    }
    consistent = [
        model.fusion.maps[modality].weights.shape == (widths[modality], model.dim) for modality in _MODALITIES
    ]
    consistent.append(model.classifier.weights.shape == (model.dim, len(model.categories)))
    consistent.append(all(a < b for a, b in pairwise(model.categories)))
    if not all(consistent):
        raise BadArtifact(f"{directory}: the shapes of its arrays do not match")
