"""Photo and title to one vector, learnt from labels in closed form. Pure: arrays in, arrays out.

Three blocks stand side by side, each scaled to a stated share of the vector's length:

categories  which categories the product seems to be in: ridge regression of the category labels on both vectors, in
            the directions in which the predictions differ most (reduced-rank regression, Izenman 1975);
tags        the same for the other labels, where there are any;
rest        what both vectors hold apart from labels: the principal components of the two, side by side.

A product that has only a photo, or only a title, has maps of its own: regressions of the same blocks on what is there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32, normalised

# precision@10 by category and by colour among the 1,724 held-out fashion products of docs/quality.md: photo .710 and
# .311, title .742 and .238, both side by side .813 and .288, these blocks .944 and .485.
SIZES = {"categories": 128, "tags": 64, "rest": 64}
LEAST_DIM = 128  # Where labels are few, there is more of the rest.
SHARES = {"categories": 0.6, "tags": 0.2, "rest": 0.2}
PHOTO, TITLE = 0.6, 0.4  # Side by side: .5 and .5 lose half a point by category, two by colour.


class Kind(Enum):
    """What there is of a product to go by."""

    BOTH = "both"
    IMAGE = "image"
    TEXT = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Centres:
    """What all photos, and all titles, have in common, and what says nothing."""

    image: F32  # (di,)
    text: F32  # (dt,)

    def inputs(self, kind: Kind, images: F32, texts: F32) -> F32:
        """(n, di + dt), (n, di) or (n, dt) float32: what the maps of a kind take."""
        if kind is Kind.IMAGE:
            return normalised(images - self.image)
        if kind is Kind.TEXT:
            return normalised(texts - self.text)
        photo, title = normalised(images - self.image), normalised(texts - self.text)
        return np.hstack([np.float32(PHOTO) * photo, np.float32(TITLE) * title])


@dataclass(frozen=True, slots=True, kw_only=True)
class Map:
    """Inputs (n, d_in) to blocks side by side (n, d_out), of any length."""

    weights: F32  # (d_in, d_out)
    offset: F32  # (d_out,)

    def __call__(self, inputs: F32) -> F32:
        blocks: F32 = inputs @ self.weights + self.offset
        return blocks


def composed(blocks: F32, sizes: Mapping[str, int]) -> F32:
    """(n, d) of unit norm from blocks side by side: each normalised, then given its share."""
    ends = np.cumsum(list(sizes.values()))[:-1]
    parts = zip(sizes, np.split(blocks, ends, axis=1), strict=True)
    return normalised(np.hstack([np.float32(SHARES[name]) * normalised(part) for name, part in parts]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Fusion:
    centres: Centres
    maps: Mapping[Kind, Map]
    sizes: Mapping[str, int]  # Of the blocks, by name, in their order.

    @property
    def dim(self) -> int:
        return sum(self.sizes.values())

    def of(self, kind: Kind, images: F32, texts: F32) -> F32:
        """(n, dim) float32, rows of unit norm. images (n, di), texts (n, dt); what the kind lacks is not looked at."""
        return composed(self.maps[kind](self.centres.inputs(kind, images, texts)), self.sizes)


def learnt(images: F32, texts: F32, categories: Any, tags: Any, *, ridge: float) -> Fusion:
    """From training products that have both: vectors (n, di) and (n, dt), sparse 0/1 labels (n, categories), (n, tags).

    ridge: added to the inputs' covariance, as a share of its mean diagonal. A block is as large as SIZES says or as
    its labels allow; one without labels is left out. The rest is larger where all together would have less than
    LEAST_DIM, as far as the inputs allow.
    """
    centres = Centres(image=images.mean(axis=0), text=texts.mean(axis=0))
    both = _Regression.of(centres.inputs(Kind.BOTH, images, texts), ridge)
    labels = {"categories": categories, "tags": tags}
    targets: dict[str, npt.NDArray[np.float64]] = {}
    for name, each in labels.items():
        if each.shape[1]:
            targets[name] = each @ both.directions(each, SIZES[name])
    rest = max(SIZES["rest"], LEAST_DIM - sum(each.shape[1] for each in targets.values()))
    targets["rest"] = both.inputs @ both.components(rest)
    wanted = np.hstack(list(targets.values()))
    maps = {Kind.BOTH: both.map_to(wanted)}
    for kind in (Kind.IMAGE, Kind.TEXT):
        maps[kind] = _Regression.of(centres.inputs(kind, images, texts), ridge).map_to(wanted)
    return Fusion(centres=centres, maps=maps, sizes={name: each.shape[1] for name, each in targets.items()})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Regression:
    """Ridge regression on inputs (n, d), for any targets."""

    inputs: F32
    mean: npt.NDArray[np.float64]  # (d,)
    covariance: npt.NDArray[np.float64]  # (d, d), not divided by n
    factor: Any  # Cholesky, of the covariance with the ridge.

    @classmethod
    def of(cls, inputs: F32, ridge: float) -> _Regression:
        from scipy.linalg import cho_factor

        mean = inputs.mean(axis=0, dtype=np.float64)
        centred = inputs - mean.astype(np.float32)
        covariance = (centred.T @ centred).astype(np.float64)
        # Never 0: inputs that are all alike have no variance, and no inverse without this.
        added = max(ridge * float(np.trace(covariance)) / len(covariance), 1e-6)
        factor = cho_factor(covariance + added * np.eye(len(covariance)))
        return cls(inputs=inputs, mean=mean, covariance=covariance, factor=factor)

    def weights(self, targets: Any) -> npt.NDArray[np.float64]:
        """(d, t) for targets (n, t), dense or sparse."""
        from scipy.linalg import cho_solve

        totals = np.asarray(targets.sum(axis=0)).reshape(1, -1)
        products = np.asarray((targets.T @ self.inputs).T, dtype=np.float64)
        solved: npt.NDArray[np.float64] = cho_solve(self.factor, products - self.mean[:, None] * totals)
        return solved

    def directions(self, labels: Any, most: int) -> npt.NDArray[np.float64]:
        """(t, at most `most`): orthonormal directions in which the predictions of the labels (n, t) differ most."""
        weights = self.weights(labels)
        return _leading(weights.T @ self.covariance @ weights, most)

    def components(self, most: int) -> npt.NDArray[np.float64]:
        """(d, at most `most`) principal components of the inputs."""
        return _leading(self.covariance, most)

    def map_to(self, targets: npt.NDArray[np.float64]) -> Map:
        weights = self.weights(targets)
        return Map(weights=weights.astype(np.float32), offset=(-self.mean @ weights).astype(np.float32))


def _leading(symmetric: npt.NDArray[np.float64], most: int) -> npt.NDArray[np.float64]:
    """(m, at most `most`) eigenvectors by falling eigenvalue, those of next to none left out; signs are fixed."""
    from scipy.linalg import eigh

    size = len(symmetric)
    values, vectors = eigh(symmetric, subset_by_index=[max(0, size - most), size - 1])
    values, vectors = values[::-1], vectors[:, ::-1]
    kept = values > max(1e-9 * float(values[0]), 1e-12)
    kept[0] = True  # A block has at least one dimension.
    vectors = vectors[:, kept]
    signs = np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])])
    return np.ascontiguousarray(vectors * signs)


def labels_of(each: Sequence[Sequence[str]], *, at_least: int, most: int) -> tuple[Any, list[str]]:
    """Sparse 0/1 (n, labels) float32 and the labels: those of `at_least` products, the `most` frequent, by name."""
    from scipy.sparse import csr_matrix

    names, counts = np.unique([label for labels in each for label in set(labels)], return_counts=True)
    order = np.lexsort((names, -counts))
    kept = sorted(str(names[i]) for i in order[:most] if counts[i] >= at_least)
    number = {name: i for i, name in enumerate(kept)}
    cells = [(row, number[label]) for row, labels in enumerate(each) for label in set(labels) if label in number]
    rows, columns = (np.array(side, dtype=np.int64) for side in (zip(*cells, strict=True) if cells else ((), ())))
    return csr_matrix((np.ones(len(cells), np.float32), (rows, columns)), shape=(len(each), len(kept))), kept
