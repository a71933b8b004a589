"""SCDV: topics, document vectors, sparsity and projection."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.text import scdv
from lookalike.vectors import F32

PARAMETERS = scdv.ScdvParameters(clusters=2, temperature=7.0)


def _two_groups(size: int = 30, dim: int = 8) -> F32:
    random = np.random.default_rng(0)
    centres = np.repeat(np.eye(2, dim), size, axis=0)
    return (5 * centres + random.normal(0, 0.3, (2 * size, dim))).astype(np.float32)


def test_words_of_one_group_have_the_same_topic_and_those_of_two_do_not() -> None:
    words = _two_groups()
    topics = scdv.fit_topics(words, PARAMETERS, seed=0)
    probabilities = topics.probabilities(words)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, rtol=1e-5)
    likeliest = probabilities.argmax(axis=1)
    assert len(set(likeliest[:30])) == len(set(likeliest[30:])) == 1
    assert likeliest[0] != likeliest[30]


def test_probabilities_are_those_of_the_mixture_with_a_temperature() -> None:
    from sklearn.mixture import GaussianMixture

    words = _two_groups()
    topics = scdv.fit_topics(words, PARAMETERS, seed=0)
    reference = GaussianMixture(2, covariance_type="diag")
    reference.weights_, reference.means_ = np.exp(topics.log_weights), topics.means
    reference.covariances_, reference.precisions_cholesky_ = 1 / topics.precisions, np.sqrt(topics.precisions)
    unit = words / np.linalg.norm(words, axis=1, keepdims=True)
    logs = reference._estimate_weighted_log_prob(unit) / PARAMETERS.temperature
    expected = np.exp(logs - logs.max(axis=1, keepdims=True))
    np.testing.assert_allclose(
        topics.probabilities(words), expected / expected.sum(axis=1, keepdims=True), rtol=1e-2, atol=1e-4
    )


@pytest.mark.parametrize("words", [1, 2, 3])
def test_few_words_give_fewer_topics(words: int) -> None:
    topics = scdv.fit_topics(_two_groups()[:words], scdv.ScdvParameters(), seed=0)
    assert 1 <= len(topics.means) <= words
    assert np.isfinite(topics.probabilities(_two_groups())).all()


def test_a_document_vector_is_the_weighted_sum_over_its_words() -> None:
    random = np.random.default_rng(1)
    topic_weights, words = (random.normal(size=shape).astype(np.float32) for shape in ((5, 4), (5, 6)))
    documents = scdv.composite_vectors(topic_weights, words, [3, 0, 2])
    for document, rows in ((documents[0], range(3)), (documents[2], range(3, 5))):
        by_hand = sum(np.outer(topic_weights[row], words[row]).ravel() for row in rows)
        np.testing.assert_allclose(document, by_hand / np.linalg.norm(by_hand), rtol=1e-5, atol=1e-7)
    assert not documents[1].any()


def test_word_and_document_vectors_are_bit_identical_in_any_batch() -> None:
    """Otherwise a component near the sparsity threshold would be zeroed in some batches only."""
    random = np.random.default_rng(3)
    words = random.normal(size=(200, 100)).astype(np.float32)
    topics = scdv.fit_topics(words, scdv.ScdvParameters(), seed=0)
    together = topics.probabilities(words)
    alone = np.concatenate([topics.probabilities(words[i : i + 1]) for i in range(len(words))])
    np.testing.assert_array_equal(alone, together)
    lengths = [1, 7, 2, 190]
    parts = np.split(np.arange(200), np.cumsum(lengths)[:-1])
    one_at_a_time = np.concatenate([scdv.composite_vectors(together[part], words[part], [len(part)]) for part in parts])
    np.testing.assert_array_equal(scdv.composite_vectors(together, words, lengths), one_at_a_time)


def test_a_higher_temperature_makes_topics_softer() -> None:
    words = _two_groups()
    softer = scdv.fit_topics(words, scdv.ScdvParameters(clusters=2, temperature=1000), seed=0).probabilities(words)
    softest = scdv.fit_topics(words, scdv.ScdvParameters(clusters=2, temperature=2000), seed=0).probabilities(words)
    assert (softest.max(axis=1) < softer.max(axis=1)).all()


def test_the_words_of_a_single_document_do_not_cancel_out() -> None:
    words = _two_groups()[:3]
    assert np.linalg.norm((words - scdv.mean_word_vector(words)).sum(axis=0)) > 1


def test_only_small_components_become_zeros() -> None:
    documents = np.array([[1, -0.5, 0.01, 0], [0.8, -0.6, 0.02, 0.3]], dtype=np.float32)
    threshold = scdv.sparsity_threshold(documents, 0.04)
    assert threshold == pytest.approx(0.04 * (0.55 + 0.9) / 2)
    np.testing.assert_array_equal(
        scdv.sparsify(documents, threshold), np.array([[1, -0.5, 0, 0], [0.8, -0.6, 0, 0.3]], dtype=np.float32)
    )


def test_a_projection_of_full_rank_keeps_the_angles_of_documents() -> None:
    random = np.random.default_rng(2)
    documents = (random.normal(size=(40, 6)) @ random.normal(size=(6, 100))).astype(np.float32)
    projection = scdv.fit_projection(documents, 6, seed=0)
    assert projection.shape == (100, 6)
    projected = documents @ projection
    np.testing.assert_allclose(projected @ projected.T, documents @ documents.T, rtol=1e-3, atol=1e-2)


def test_idf_depends_on_the_number_of_documents_not_on_occurrences() -> None:
    idf = scdv.inverse_document_frequencies([np.array([0, 1]), np.array([0, 2, 2, 2]), np.array([0])], 4)
    assert idf[0] == pytest.approx(1)
    assert idf[0] < idf[1] == idf[2] < idf[3]


def test_only_the_share_of_the_centre_in_an_unseen_word_is_subtracted() -> None:
    centre = np.array([2, 0], dtype=np.float32)
    assert scdv.unseen_word_vector(np.array([1, 1], dtype=np.float32), centre, 0.1).tolist() == [0, 1]
    assert scdv.unseen_word_vector(np.array([3, 1], dtype=np.float32), centre, 0.1).tolist() == [1, 1]
    assert scdv.unseen_word_vector(np.array([-1, 1], dtype=np.float32), centre, 0.1).tolist() == [-1, 1]
    assert scdv.unseen_word_vector(np.array([1, 1], dtype=np.float32), np.zeros(2, dtype=np.float32), 0.1).tolist() == [
        1,
        1,
    ]


def test_a_word_whose_subwords_were_unseen_in_training_has_a_zero_vector() -> None:
    small_vector = np.array([0.05, 0.05], dtype=np.float32)
    assert not scdv.unseen_word_vector(small_vector, np.array([2, 0], dtype=np.float32), 0.1).any()
