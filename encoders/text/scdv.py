"""Sparse composite document vectors (Mekala et al. 2017, EMNLP, "SCDV"). Pure: arrays in, arrays out.

A document vector is the sum over its words of idf x (probability of each topic x word vector): one block per topic.
Small components are set to 0; then a projection fitted to the documents (singular vectors) reduces the dimension.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lookalike.vectors import F32, normalised

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScdvParameters:
    """Hyperparameters of SCDV."""

    # The paper uses 60. On shop titles 60 are within a point of precision@10 of 20, at three times the cost.
    clusters: int = 20
    # Divides the log-probabilities. Without it, diagonal Gaussians in 100 dimensions assign every word to one topic,
    # which is worse than no topics. Leave-one-out precision@10 on 3,000 shop titles: .835 -> .852.
    temperature: float = 30.0
    sparsity: float = 0.04  # The paper's 4 %.


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """A mixture of diagonal Gaussians over unit word vectors."""

    log_weights: F32  # (K,)
    means: F32  # (K, D)
    precisions: F32  # (K, D)
    temperature: float

    def probabilities(self, words: F32) -> F32:
        """Topic probabilities (n, K) float32, rows that sum to 1, of (n, D) word vectors of any norm.

        Einsum, not BLAS, so that a word's row is bit-identical in any batch: otherwise a component near the sparsity
        threshold would be zeroed in some batches only.
        """
        unit = normalised(words)
        squares = np.einsum("nj,kj->nk", unit**2, self.precisions)
        squares -= 2 * np.einsum("nj,kj->nk", unit, self.means * self.precisions)
        squares += (self.means**2 * self.precisions).sum(axis=1)
        logs = (self.log_weights + 0.5 * np.log(self.precisions).sum(axis=1) - 0.5 * squares) / self.temperature
        exponentials = np.exp(logs - logs.max(axis=1, keepdims=True))
        probabilities: F32 = (exponentials / exponentials.sum(axis=1, keepdims=True)).astype(np.float32)
        return probabilities


def fit_topics(words: F32, parameters: ScdvParameters, seed: int) -> Topics:
    """Fit topics to (n, D) word vectors by expectation maximisation; fewer topics if there are few distinct words."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    unit = normalised(words)
    clusters = max(1, min(parameters.clusters, len(np.unique(unit.round(6), axis=0)) // 2))
    mixture = GaussianMixture(clusters, covariance_type="diag", random_state=seed, max_iter=30, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Not fully converged topics are good enough.
        mixture.fit(unit if len(unit) > 1 else np.repeat(unit, 2, axis=0))
    return Topics(
        log_weights=np.log(mixture.weights_).astype(np.float32),
        means=mixture.means_.astype(np.float32),
        precisions=(1 / mixture.covariances_).astype(np.float32),
        temperature=parameters.temperature,
    )


def mean_word_vector(words: F32) -> F32:
    """(D,) mean of (n, D) word vectors and one zero vector: the common component, large for small corpora.

    Without the zero vector, the words of a catalogue with a single document would cancel out.
    """
    centre: F32 = words.sum(axis=0) / np.float32(len(words) + 1)
    return centre


def unseen_word_vector(word: F32, centre: F32, min_norm: float) -> F32:
    """(D,) centred vector of a word unseen in training, given its subword vector.

    Only the share (0..1) of the centre that the subword vector contains is subtracted. Zeros for a subword vector of a
    norm below `min_norm`: training saw almost none of the word's subwords.
    """
    if np.linalg.norm(word) < min_norm:
        return np.zeros_like(word)
    common = float(centre @ centre)
    share = min(1.0, max(0.0, float(word @ centre) / common)) if common else 0.0
    return word - np.float32(share) * centre


def composite_vectors(topic_weights: F32, words: F32, lengths: Sequence[int]) -> F32:
    """Document vectors (n, K x D), rows of unit norm; zeros for a document without words.

    topic_weights (T, K): topic probabilities times idf, and words (T, D): word vectors, of all words of all documents,
    one document after the other. lengths: the number of words of each document.
    One matrix product per document takes half the time of a sparse product per batch, and is bit-identical in any
    batch. Word vectors are not normalised: fastText's norms grow with how informative a word is. With unit norms,
    precision@10 on 3,000 shop titles is 3 points lower.
    """
    documents = np.zeros((len(lengths), topic_weights.shape[1], words.shape[1]), dtype=np.float32)
    end = 0
    for document, length in zip(documents, lengths, strict=True):
        start, end = end, end + length
        np.matmul(topic_weights[start:end].T, words[start:end], out=document)
    return normalised(documents.reshape(len(lengths), topic_weights.shape[1] * words.shape[1]))


def sparsity_threshold(documents: F32, sparsity: float) -> float:
    """The threshold below which components become 0: `sparsity` times the documents' mean extremes, as in the paper."""
    extremes = np.abs(documents.min(axis=1).mean()) + np.abs(documents.max(axis=1).mean())
    return float(sparsity * extremes / 2)


def sparsify(documents: F32, threshold: float) -> F32:
    """Set components of magnitude below the threshold to 0."""
    return np.where(np.abs(documents) < threshold, np.float32(0), documents)


def fit_projection(documents: F32, dim: int, seed: int) -> F32:
    """(K x D, at most dim) leading right singular vectors of the documents, by a seeded randomised SVD."""
    from sklearn.utils.extmath import randomized_svd

    dim = min(dim, *documents.shape)
    _, _, directions = randomized_svd(documents, dim, n_iter=3, random_state=seed)
    return np.ascontiguousarray(directions.T, dtype=np.float32)


def inverse_document_frequencies(documents: Sequence[I64], words: int) -> F32:
    """(words,) smoothed inverse document frequencies by word id."""
    frequency = np.zeros(words)
    for document in documents:
        frequency[np.unique(document)] += 1
    return (np.log((1 + len(documents)) / (1 + frequency)) + 1).astype(np.float32)
