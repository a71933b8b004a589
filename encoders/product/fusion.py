"""Fuse image and text vectors into one product vector, fitted to labels in closed form. Pure: arrays in, arrays out.

A product vector is three blocks side by side, each scaled to a fixed weight:

categories  ridge regression of the category labels on both vectors, projected onto the directions in which the
            predictions vary most (reduced-rank regression, Izenman 1975);
tags        the same for the tags, if there are any;
rest        a random projection of the two input vectors side by side, independent of labels: it keeps their cosines,
            and so which product it is (Johnson and Lindenstrauss 1984).

A product with only an image, or only a text, is mapped by separate regressions of the blocks of labels on that one
vector, and by its part of the random projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32, normalised

# Of 1,800 fashion products with photos, the held-out ones: precision@10 by category .861 and by colour .334, by
# photo alone .677 and .251, by title alone .665 and .249. R-precision of the same product by an altered photo and a
# made title .888; of the photo alone .782, the title alone .859. With the 64 first principal components as `rest`,
# fitted by regression for one modality, and weights of .2 for tags and rest, these are .863, .317 and .848; with .3 for
# both .858, .343 and .901.
BLOCK_SIZES = {"categories": 128, "tags": 64, "rest": 256}
BLOCK_WEIGHTS = {"categories": 0.6, "tags": 0.25, "rest": 0.25}
IMAGE_WEIGHT, TEXT_WEIGHT = 0.6, 0.4  # .5 and .5 lose half a point by category, two by colour.


class Modality(Enum):
    """Which vectors a product has: image, text or both."""

    BOTH = "both"
    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """Mean image and text vectors of the training products; subtracted, since they do not tell products apart."""

    image: F32  # (di,)
    text: F32  # (dt,)

    def inputs(self, modality: Modality, images: F32, texts: F32) -> F32:
        """(n, di + dt), (n, di) or (n, dt) float32: the input of the modality's map."""
        if modality is Modality.IMAGE:
            return normalised(images - self.image)
        if modality is Modality.TEXT:
            return normalised(texts - self.text)
        image, text = normalised(images - self.image), normalised(texts - self.text)
        return np.hstack([np.float32(IMAGE_WEIGHT) * image, np.float32(TEXT_WEIGHT) * text])


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearMap:
    """Affine map from inputs (n, d_in) to blocks side by side (n, d_out), not normalised."""

    weights: F32  # (d_in, d_out)
    offset: F32  # (d_out,)

    def __call__(self, inputs: F32) -> F32:
        blocks: F32 = inputs @ self.weights + self.offset
        return blocks


def combine_blocks(blocks: F32, sizes: Mapping[str, int]) -> F32:
    """(n, d) of unit norm from blocks side by side: each block is normalised, then scaled by its weight."""
    ends = np.cumsum(list(sizes.values()))[:-1]
    parts = zip(sizes, np.split(blocks, ends, axis=1), strict=True)
    return normalised(np.hstack([np.float32(BLOCK_WEIGHTS[name]) * normalised(part) for name, part in parts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    """A fitted fusion: the input means, a map per modality, and the block sizes."""

    means: Means
    maps: Mapping[Modality, LinearMap]
    sizes: Mapping[str, int]  # Block name -> dimensions, in order.

    @property
    def dim(self) -> int:
        return sum(self.sizes.values())

    def fuse(self, modality: Modality, images: F32, texts: F32) -> F32:
        """Fuse images (n, di) and texts (n, dt) to (n, dim) float32 of unit norm; ignores a missing modality."""
        return combine_blocks(self.maps[modality](self.means.inputs(modality, images, texts)), self.sizes)


def fit_fusion(images: F32, texts: F32, categories: Any, tags: Any, *, ridge: float) -> Fusion:
    """Fit on products that have both vectors, (n, di) and (n, dt), and sparse 0/1 labels (n, categories), (n, tags).

    ridge: regularisation, relative to the mean diagonal of the inputs' covariance.
    A block has at most BLOCK_SIZES dimensions, fewer if its labels have fewer; a block without labels is left out.
    """
    means = Means(image=images.mean(axis=0), text=texts.mean(axis=0))
    both = _Regression.fit(means.inputs(Modality.BOTH, images, texts), ridge)
    labels = {"categories": categories, "tags": tags}
    targets: dict[str, npt.NDArray[np.float64]] = {}
    for name, matrix in labels.items():
        if matrix.shape[1]:
            targets[name] = matrix @ both.directions(matrix, BLOCK_SIZES[name])
    projection = _random_projection(images.shape[1] + texts.shape[1], BLOCK_SIZES["rest"])
    halves = np.split(projection, [images.shape[1]])
    # The inputs of both are scaled by the weights of image and text, which count equally in what is kept of them.
    scaled = np.vstack([halves[0] / IMAGE_WEIGHT, halves[1] / TEXT_WEIGHT])
    maps = {}
    for modality, rest in ((Modality.BOTH, scaled), (Modality.IMAGE, halves[0]), (Modality.TEXT, halves[1])):
        regression = both
        if modality is not Modality.BOTH:
            regression = _Regression.fit(means.inputs(modality, images, texts), ridge)
        maps[modality] = _beside(regression.map_to(list(targets.values())), rest)
    sizes = {name: block.shape[1] for name, block in targets.items()}
    return Fusion(means=means, maps=maps, sizes={**sizes, "rest": BLOCK_SIZES["rest"]})


def _random_projection(inputs: int, outputs: int) -> F32:
    """(inputs, outputs) Gaussian, of the same seed in every training: vectors keep their norms and cosines, nearly."""
    matrix: F32 = np.random.default_rng(0).standard_normal((inputs, outputs), dtype=np.float32)
    return matrix / np.float32(np.sqrt(outputs))


def _beside(labels: LinearMap, rest: F32) -> LinearMap:
    """One map to the blocks of labels and, beside them, `rest`."""
    return LinearMap(
        weights=np.hstack([labels.weights, rest]),
        offset=np.concatenate([labels.offset, np.zeros(rest.shape[1], dtype=np.float32)]),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regression:
    """Ridge regression on fixed inputs (n, d) for any targets."""

    inputs: F32
    mean: npt.NDArray[np.float64]  # (d,)
    covariance: npt.NDArray[np.float64]  # (d, d), not divided by n
    cholesky: Any  # Cholesky factor of the regularised covariance.

    @classmethod
    def fit(cls, inputs: F32, ridge: float) -> _Regression:
        from scipy.linalg import cho_factor

        mean = inputs.mean(axis=0, dtype=np.float64)
        centred = inputs - mean.astype(np.float32)
        covariance = (centred.T @ centred).astype(np.float64)
        # Never 0: identical inputs have no variance, and their covariance no inverse.
        regularisation = max(ridge * float(np.trace(covariance)) / len(covariance), 1e-6)
        cholesky = cho_factor(covariance + regularisation * np.eye(len(covariance)))
        return cls(inputs=inputs, mean=mean, covariance=covariance, cholesky=cholesky)

    def weights(self, targets: Any) -> npt.NDArray[np.float64]:
        """(d, t) for targets (n, t), dense or sparse."""
        from scipy.linalg import cho_solve

        totals = np.asarray(targets.sum(axis=0)).reshape(1, -1)
        products = np.asarray((targets.T @ self.inputs).T, dtype=np.float64)
        weights: npt.NDArray[np.float64] = cho_solve(self.cholesky, products - self.mean[:, None] * totals)
        return weights

    def directions(self, labels: Any, max_count: int) -> npt.NDArray[np.float64]:
        """(t, max_count at most): orthonormal directions of the largest variance of the predicted labels (n, t)."""
        weights = self.weights(labels)
        return _top_eigenvectors(weights.T @ self.covariance @ weights, max_count)

    def map_to(self, targets: Sequence[npt.NDArray[np.float64]]) -> LinearMap:
        """The map to these targets (n, t) side by side; without any, to no dimensions."""
        weights = self.weights(np.hstack(targets)) if targets else np.empty((len(self.mean), 0))
        return LinearMap(weights=weights.astype(np.float32), offset=(-self.mean @ weights).astype(np.float32))


def _top_eigenvectors(symmetric: npt.NDArray[np.float64], max_count: int) -> npt.NDArray[np.float64]:
    """(m, max_count at most) eigenvectors by descending eigenvalue, without near-zero ones; signs are deterministic."""
    from scipy.linalg import eigh

    size = len(symmetric)
    values, vectors = eigh(symmetric, subset_by_index=[max(0, size - max_count), size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(1e-9 * float(values[0]), 1e-12)
    kept[0] = True  # A block has at least one dimension.
    vectors = vectors[:, kept]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return np.ascontiguousarray(vectors * signs)


def label_matrix(label_sets: Sequence[Sequence[str]], *, min_products: int, max_count: int) -> tuple[Any, list[str]]:
    """Encode label sets as a sparse 0/1 matrix (n, labels) float32, and its labels in order of name.

    Keeps the max_count most frequent of the labels that at least min_products products have.
    """
    from scipy.sparse import csr_matrix

    names, counts = np.unique([label for labels in label_sets for label in set(labels)], return_counts=True)
    order = np.lexsort((names, -counts))
    kept = sorted(str(names[i]) for i in order[:max_count] if counts[i] >= min_products)
    column_of_label = {name: i for i, name in enumerate(kept)}
    cells = [
        (row, column_of_label[label])
        for row, labels in enumerate(label_sets)
        for label in set(labels)
        if label in column_of_label
    ]
    rows, columns = (np.array(axis, dtype=np.int64) for axis in (zip(*cells, strict=True) if cells else ((), ())))
    return csr_matrix((np.ones(len(cells), np.float32), (rows, columns)), shape=(len(label_sets), len(kept))), kept
