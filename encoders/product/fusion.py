"""Fuse image and text vectors into one product vector, fitted to labels in closed form. Pure: arrays in, arrays out.

A product vector is three blocks side by side, each scaled to a fixed weight:

categories  ridge regression of the category labels on both vectors, projected onto the directions in which the
            predictions vary most (reduced-rank regression, Izenman 1975);
tags        the same for the tags, if there are any;
rest        the principal components of the two input vectors side by side, independent of labels.

A product with only an image, or only a text, is mapped by separate regressions of the same blocks on that one vector.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32, normalised

# precision@10 by category and by colour among the 1,724 held-out fashion products of docs/quality.md: image .710 and
# .311, text .742 and .238, the two side by side .813 and .288, these blocks .944 and .485.
BLOCK_SIZES = {"categories": 128, "tags": 64, "rest": 64}
MIN_DIM = 128  # With few labels, the block `rest` is enlarged to reach this.
BLOCK_WEIGHTS = {"categories": 0.6, "tags": 0.2, "rest": 0.2}
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
    A block has at most BLOCK_SIZES dimensions, fewer if its labels have fewer; a block without labels is left out. The
    block `rest` grows, as far as the inputs allow, to reach MIN_DIM in total.
    """
    means = Means(image=images.mean(axis=0), text=texts.mean(axis=0))
    both = _Regression.fit(means.inputs(Modality.BOTH, images, texts), ridge)
    labels = {"categories": categories, "tags": tags}
    targets: dict[str, npt.NDArray[np.float64]] = {}
    for name, matrix in labels.items():
        if matrix.shape[1]:
            targets[name] = matrix @ both.directions(matrix, BLOCK_SIZES[name])
    rest = max(BLOCK_SIZES["rest"], MIN_DIM - sum(block.shape[1] for block in targets.values()))
    targets["rest"] = both.inputs @ both.components(rest)
    stacked = np.hstack(list(targets.values()))
    maps = {Modality.BOTH: both.map_to(stacked)}
    for modality in (Modality.IMAGE, Modality.TEXT):
        maps[modality] = _Regression.fit(means.inputs(modality, images, texts), ridge).map_to(stacked)
    return Fusion(means=means, maps=maps, sizes={name: block.shape[1] for name, block in targets.items()})


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

    def components(self, max_count: int) -> npt.NDArray[np.float64]:
        """(d, max_count at most) principal components of the inputs."""
        return _top_eigenvectors(self.covariance, max_count)

    def map_to(self, targets: npt.NDArray[np.float64]) -> LinearMap:
        weights = self.weights(targets)
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
