"""The product encoder of an artifact: photo and title vectors to one, and to a category. Reads files."""

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
from encoders.product.fusion import Centres, Fusion, Kind, Map
from lookalike.errors import BadArtifact
from lookalike.vectors import F32

FORMAT = 2  # Raised when other files, or the same files otherwise, make an encoder.
# Of which untrained photo vectors went in: every answer says so by its name.
KINDS = ("product", "product-untrained")
_KINDS = tuple(Kind)
_ARRAYS = (
    "centre_image",
    "centre_text",
    *(f"{kind.value}_{part}" for kind in _KINDS for part in ("weights", "offset", "thresholds")),
    "category_weights",
    "category_bias",
)
FILES = {kind: tuple(f"{name}.npy" for name in _ARRAYS) for kind in KINDS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Guess:
    """What a classifier says of one product."""

    categories: Sequence[str]  # By falling probability, equal ones by name.
    probabilities: F32  # As many.
    threshold: float  # From this probability on, held-out answers were as precise as was asked for; 2: never.


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductModel:
    """May be used by many threads at a time.

    A row of zeros stands for a photo, or a title, that is not there.
    """

    fingerprint: str
    image_encoder: str  # Fingerprints of the encoders whose vectors it was trained on, and takes.
    text_encoder: str
    categories: Sequence[str]  # That the classifier knows, by name.
    measured: Mapping[str, Any]  # On held-out products, when it was trained.
    fusion: Fusion
    classifier: Classifier

    @property
    def dim(self) -> int:
        return self.fusion.dim

    @property
    def image_dim(self) -> int:
        return len(self.fusion.centres.image)

    @property
    def text_dim(self) -> int:
        return len(self.fusion.centres.text)

    def encode(self, images: F32, texts: F32) -> F32:
        """(n, dim) float32, rows of unit norm, for photos (n, image_dim) and titles (n, text_dim); zeros for neither.

        A vector does not depend on what else is encoded with it, to 1e-6.
        """
        vectors = np.zeros((len(images), self.dim), dtype=np.float32)
        for kind, rows in _by_kind(images, texts):
            vectors[rows] = self.fusion.of(kind, images[rows], texts[rows])
        return vectors

    def classify(self, images: F32, texts: F32, *, limit: int, precision: float) -> list[Guess]:
        """The `limit` likeliest categories of each product. Raises ValueError for one with neither photo nor title."""
        if not (images.any(axis=1) | texts.any(axis=1)).all():
            raise ValueError("a product with neither photo nor title cannot be classified")
        guesses: dict[int, Guess] = {}
        for kind, rows in _by_kind(images, texts):
            shares = self.classifier.probabilities(kind, self.fusion.of(kind, images[rows], texts[rows]))
            threshold = self.classifier.threshold(kind, precision)
            best = np.argsort(-shares, axis=1, kind="stable")[:, :limit]
            for row, columns, probabilities in zip(rows, best, shares, strict=True):
                names = [self.categories[column] for column in columns]
                guesses[int(row)] = Guess(categories=names, probabilities=probabilities[columns], threshold=threshold)
        return [guesses[row] for row in range(len(images))]


def _by_kind(images: F32, texts: F32) -> Iterator[tuple[Kind, npt.NDArray[np.int64]]]:
    pictured, worded = images.any(axis=1), texts.any(axis=1)
    for kind, which in (
        (Kind.BOTH, pictured & worded),
        (Kind.IMAGE, pictured & ~worded),
        (Kind.TEXT, worded & ~pictured),
    ):
        if (rows := np.flatnonzero(which)).size:
            yield kind, rows


def write(
    out: Path,
    *,
    fusion: Fusion,
    classifier: Classifier,
    categories: Sequence[str],
    image_encoder: str,
    text_encoder: str,
    measured: Mapping[str, Any],
) -> str:
    """The artifact, a new folder; returns its fingerprint. Raises OperatorError where `out` exists."""

    def fill(part: Path) -> Mapping[str, Any]:
        for name, array in _arrays(fusion, classifier).items():
            np.save(part / f"{name}.npy", array)
        return {
            "image_encoder": image_encoder,
            "text_encoder": text_encoder,
            "blocks": list(fusion.sizes.items()),
            "temperatures": {kind.value: classifier.temperatures[kind] for kind in _KINDS},
            "categories": list(categories),
            "measured": measured,
        }

    kind = KINDS["-untrained-" in image_encoder]
    return artifact.written(out, kind=kind, form=FORMAT, files=FILES, fill=fill)


def _arrays(fusion: Fusion, classifier: Classifier) -> dict[str, F32]:
    arrays = {"centre_image": fusion.centres.image, "centre_text": fusion.centres.text}
    for kind in _KINDS:
        arrays[f"{kind.value}_weights"] = fusion.maps[kind].weights
        arrays[f"{kind.value}_offset"] = fusion.maps[kind].offset
        arrays[f"{kind.value}_thresholds"] = classifier.thresholds[kind]
    return {**arrays, "category_weights": classifier.weights, "category_bias": classifier.bias}


def load(directory: Path) -> ProductModel:
    """Raises BadArtifact, naming the file that is missing, damaged or of another format."""
    manifest = checked(directory)
    arrays = artifact.arrays_of(directory, _ARRAYS)
    model = ProductModel(
        fingerprint=manifest["fingerprint"],
        image_encoder=manifest["image_encoder"],
        text_encoder=manifest["text_encoder"],
        categories=manifest["categories"],
        measured=manifest["measured"],
        fusion=Fusion(
            centres=Centres(image=arrays["centre_image"], text=arrays["centre_text"]),
            maps={k: Map(weights=arrays[f"{k.value}_weights"], offset=arrays[f"{k.value}_offset"]) for k in _KINDS},
            sizes=dict(manifest["blocks"]),
        ),
        classifier=Classifier(
            weights=arrays["category_weights"],
            bias=arrays["category_bias"],
            temperatures={kind: manifest["temperatures"][kind.value] for kind in _KINDS},
            thresholds={kind: arrays[f"{kind.value}_thresholds"] for kind in _KINDS},
        ),
    )
    _check(directory, model)
    return model


def checked(directory: Path) -> dict[str, Any]:
    """The manifest, once every file is found to be there and whole. Raises BadArtifact, as `load` does."""
    return artifact.manifest_of(directory, form=FORMAT, files=FILES)


def _check(directory: Path, model: ProductModel) -> None:
    """Digests have been compared: what differs here was written by another program."""
    widths = {
        Kind.IMAGE: model.image_dim,
        Kind.TEXT: model.text_dim,
        Kind.BOTH: model.image_dim + model.text_dim,
    }
    right = [model.fusion.maps[kind].weights.shape == (widths[kind], model.dim) for kind in _KINDS]
    right.append(model.classifier.weights.shape == (model.dim, len(model.categories)))
    right.append(all(a < b for a, b in pairwise(model.categories)))
    if not all(right):
        raise BadArtifact(f"{directory}: its arrays do not fit each other")
