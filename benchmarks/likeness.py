"""Whether the vectors of `benchmarks/dataset.py` are like real features: the same number of both, side by side.

Features are those of MobileNet in float32, as `encoders/image` exports it. Compared is what makes a search hard: the
spectrum of the covariance, distances of neighbours and of any two vectors, local intrinsic dimension, and hubs. Also
recall@10: of inverted lists by nprobe, of 4-bit codes by candidates rescored, of a graph by efSearch.

    python -m benchmarks.likeness WEIGHTS.h5 PHOTOS.tar.xz FEATURES.npy        computes FEATURES.npy if it is missing
"""

from __future__ import annotations

import argparse
import os
import tarfile
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import write
from benchmarks.neighbours import nearest
from encoders.image.batch_norm_folding import compute_features, fold_batch_norms
from encoders.image.card import PREPROCESSINGS
from encoders.image.networks import build_network
from encoders.image.preprocessing import preprocess
from encoders.image.serving_graph import preprocess_pixels
from encoders.image.signature import DEFAULT_INPUT_PX
from encoders.image.tensorflow_runtime import import_tensorflow
from index.backends import factory
from index.backends.faiss_support import use_threads
from index.backends.recipe import resolve_recipe
from index.backends.vector_index import VectorIndex
from index.search.scores import inner_products
from lookalike.vectors import F32, normalised

QUERIES = 500
K = 10
NPROBES, CANDIDATES, EF_SEARCHES = (1, 2, 4, 8, 16, 32), (20, 40, 80, 160), (16, 32, 64, 128)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("weights")
    parser.add_argument("photos", type=Path)
    parser.add_argument("features", type=Path)
    options = parser.parse_args()
    if not options.features.exists():
        np.save(options.features, np.concatenate(list(compute_features_of_photos(options.weights, options.photos))))
    use_threads(1)
    real = np.random.default_rng(0).permutation(normalised(np.load(options.features)))
    dataset = CnnLike()
    count = len(real) - QUERIES
    pairs = {
        "real": (np.ascontiguousarray(real[QUERIES:]), real[:QUERIES]),
        "drawn": (np.concatenate(list(dataset.vectors(count))), dataset.queries(QUERIES)),
    }
    rows = {name: {**describe_distribution(*pair), **recall_curves(*pair)} for name, pair in pairs.items()}
    result = {"vectors": count, "queries": QUERIES, "features": options.features.name, "rows": rows}
    print(write("likeness", result))


def compute_features_of_photos(weights: str, photos: Path) -> Iterator[F32]:
    """Features of all photos of an archive, not normalised, 16 at a time."""
    tf = import_tensorflow(os.environ)  # noqa: TID251  # a script of its own
    layers = fold_batch_norms(build_network(weights))

    def features(images: Any) -> Any:
        return compute_features(tf, layers, preprocess_pixels(tf, images, PREPROCESSINGS["tf"]), "float32")

    run = tf.function(features, autograph=False)
    with tarfile.open(photos, "r|xz") as archive:
        files = (archive.extractfile(member) for member in archive if member.isfile())
        pixels = (preprocess(file.read(), DEFAULT_INPUT_PX) for file in files if file is not None)
        while batch := list(islice(pixels, 16)):
            yield run(np.stack(batch)).numpy()


def describe_distribution(vectors: F32, queries: F32) -> dict[str, Any]:
    random = np.random.default_rng(0)
    variances = np.linalg.eigvalsh(np.cov(vectors[:20_000].T))[::-1]
    explained = np.cumsum(variances) / variances.sum()
    one, other = vectors[random.integers(len(vectors), size=(2, 20_000))]
    near = distances(np.sort(queries @ vectors.T, axis=1)[:, : -100 - 1 : -1])
    ratios = np.log(near[:, 19:20] / np.maximum(near[:, :19], 1e-6)).mean(axis=1)
    sample = vectors[:10_000]
    hubs = np.bincount(nearest(sample, sample, K + 1)[:, 1:].ravel(), minlength=len(sample))
    return {
        "variance_in_components": {n: rounded(explained[n - 1]) for n in (1, 4, 16, 64, 256)},
        "norm_of_mean": rounded(np.linalg.norm(vectors.mean(axis=0))),
        "below_0.001": rounded((vectors < 1e-3).mean()),
        "distance_of_any_two": quantiles(distances(np.einsum("ij,ij->i", one, other))),
        **{f"distance_of_neighbour_{n}": quantiles(near[:, n - 1]) for n in (1, 10, 100)},
        "intrinsic_dimension": rounded(1 / ratios[ratios > 0].mean()),  # Levina and Bickel, of 20 neighbours.
        "hubs": {
            "skewness": rounded(((hubs - K) ** 3).mean() / hubs.std() ** 3),
            "never_a_neighbour": rounded((hubs == 0).mean()),
        },
    }


def recall_curves(vectors: F32, queries: F32) -> dict[str, Any]:
    truth = nearest(vectors, queries)
    ivf_flat, ivf_pq, hnsw = (train_index(name, vectors) for name in ("IVF,Flat", "IVF,PQ4fs", "HNSW32"))

    def recall_at_10(index: VectorIndex, count: int, search_parameter: int) -> float:
        """recall@10 of `count` candidates rescored; in batches of 16, as `VectorIndex` requires."""
        hits = 0
        for start in range(0, len(queries), 16):
            part = queries[start : start + 16]
            rows = index.find_candidates(part, count, search_parameter)
            best = np.take_along_axis(rows, np.argsort(-inner_products(part, vectors, rows), axis=1)[:, :K], 1)
            hits += sum(len(np.intersect1d(a, b)) for a, b in zip(best, truth[start:], strict=False))
        return rounded(hits / truth.size)

    return {
        "recall_by_lists_visited": {n: recall_at_10(ivf_flat, K, n) for n in NPROBES},
        "recall_by_candidates_rescored": {n: recall_at_10(ivf_pq, n, max(NPROBES)) for n in CANDIDATES},
        "recall_by_ef_search": {n: recall_at_10(hnsw, K, n) for n in EF_SEARCHES},
    }


def train_index(name: str, vectors: F32) -> VectorIndex:
    recipe = resolve_recipe(name, len(vectors), DIM, 0)
    assert recipe is not None  # noqa: S101  # none of these recipes is exact
    return factory.train_index(recipe, vectors, 0, 1)


def distances(cosines: F32) -> F32:
    result: F32 = np.sqrt(np.maximum(2 - 2 * cosines, 0))
    return result


def quantiles(values: F32) -> dict[str, float]:
    return {f"{part}%": rounded(np.percentile(values, part)) for part in (5, 50, 95)}


def rounded(value: Any) -> float:
    return round(float(value), 3)


if __name__ == "__main__":
    main()
