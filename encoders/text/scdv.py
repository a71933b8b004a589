"""Sparse composite document vectors (Mekala et al. 2017, EMNLP, "SCDV"). Pure: arrays in, arrays out.

A document is the sum over its words of idf x (probability of each topic x word vector): one block of the vector per
topic, so that a word counts differently in different company. Small components are set to 0; then a projection that
was learnt from the documents (singular vectors) brings it to the stated dimension.
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
class Recipe:
    """What the method leaves open."""

    # The paper has 60. On shop titles 60 are within a point of precision@10 of 20, either way, at three times the work.
    clusters: int = 20
    # Diagonal Gaussians in 100 dimensions make every word certain of one topic, which is worse than no topics at all;
    # log-probabilities divided by this make them soft. Leave-one-out precision@10 on 3,000 shop titles: .835 -> .852.
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
        """(n, K) float32, rows that sum to 1, for (n, D) word vectors of any length.

        A word's row is the same to the last bit whatever words it is asked with, which a product by BLAS is not: a
        component next to the threshold would turn to 0 or not with the company.
        """
        unit = normalised(words)
        squares = np.einsum("nj,kj->nk", unit**2, self.precisions)
        squares -= 2 * np.einsum("nj,kj->nk", unit, self.means * self.precisions)
        squares += (self.means**2 * self.precisions).sum(axis=1)
        logs = (self.log_weights + 0.5 * np.log(self.precisions).sum(axis=1) - 0.5 * squares) / self.temperature
        odds = np.exp(logs - logs.max(axis=1, keepdims=True))
        shares: F32 = (odds / odds.sum(axis=1, keepdims=True)).astype(np.float32)
        return shares


def fit_topics(words: F32, recipe: Recipe, seed: int) -> Topics:
    """Topics of (n, D) word vectors by expectation maximisation; at most as many as there are different words."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture

    unit = normalised(words)
    clusters = max(1, min(recipe.clusters, len(np.unique(unit.round(6), axis=0)) // 2))
    mixture = GaussianMixture(clusters, covariance_type="diag", random_state=seed, max_iter=30, reg_covar=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # Topics that still drift a little are topics.
        mixture.fit(unit if len(unit) > 1 else np.repeat(unit, 2, axis=0))
    return Topics(
        log_weights=np.log(mixture.weights_).astype(np.float32),
        means=mixture.means_.astype(np.float32),
        precisions=(1 / mixture.covariances_).astype(np.float32),
        temperature=recipe.temperature,
    )


def centre_of(words: F32) -> F32:
    """(D,) the mean of (n, D) word vectors and one of zeros: what all have in common, much where texts are few.

    Without that one, the words of a catalogue with a single document would cancel out.
    """
    centre: F32 = words.sum(axis=0) / np.float32(len(words) + 1)
    return centre


def guessed(word: F32, centre: F32, faint: float) -> F32:
    """(D,) from the centre, for the subword vector of an unseen word: less the share of the centre that is in it.

    Zeros for a vector shorter than `faint`: training saw next to none of its subwords, so nothing can be guessed.
    """
    if np.linalg.norm(word) < faint:
        return np.zeros_like(word)
    common = float(centre @ centre)
    share = min(1.0, max(0.0, float(word @ centre) / common)) if common else 0.0
    return word - np.float32(share) * centre


def composites(shares: F32, words: F32, lengths: Sequence[int]) -> F32:
    """(n, K x D) rows of unit norm, zeros for a document without words, of n documents of `lengths` words each.

    For all their words, one document after the other: (T, K) topic probabilities times idf, (T, D) vectors. One product
    of matrices for each document: half the time, in batches, of a sparse matrix of documents times one of words, and
    the same to the last bit in whatever company.

    Word vectors keep their length: fastText's are long where a word says much about its neighbours. Unit ones lose
    3 points of precision@10 on 3,000 shop titles.
    """
    documents = np.zeros((len(lengths), shares.shape[1], words.shape[1]), dtype=np.float32)
    end = 0
    for document, length in zip(documents, lengths, strict=True):
        start, end = end, end + length
        np.matmul(shares[start:end].T, words[start:end], out=document)
    return normalised(documents.reshape(len(lengths), shares.shape[1] * words.shape[1]))


def threshold_of(documents: F32, sparsity: float) -> float:
    """Below it a component is set to 0: that share of the mean of the documents' extremes, as in the paper."""
    extremes = np.abs(documents.min(axis=1).mean()) + np.abs(documents.max(axis=1).mean())
    return float(sparsity * extremes / 2)


def sparse(documents: F32, threshold: float) -> F32:
    return np.where(np.abs(documents) < threshold, np.float32(0), documents)


def fit_projection(documents: F32, dim: int, seed: int) -> F32:
    """(K x D, at most dim): the directions in which the documents differ most, by a seeded randomised SVD."""
    from sklearn.utils.extmath import randomized_svd

    dim = min(dim, *documents.shape)
    _, _, directions = randomized_svd(documents, dim, n_iter=3, random_state=seed)
    return np.ascontiguousarray(directions.T, dtype=np.float32)


def idf_of(documents: Sequence[I64], words: int) -> F32:
    """(words,) smoothed inverse document frequencies of word numbers."""
    frequency = np.zeros(words)
    for document in documents:
        frequency[np.unique(document)] += 1
    return (np.log((1 + len(documents)) / (1 + frequency)) + 1).astype(np.float32)
