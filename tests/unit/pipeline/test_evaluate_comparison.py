"""Comparisons of spaces with baselines, and the sentences that state who is better."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32
from pipeline.evaluation.baselines import RANDOM, TFIDF_CHARACTERS, TFIDF_WORDS, UNTRAINED
from pipeline.evaluation.comparison import RIVALS, Comparison, compare
from pipeline.evaluation.held_out import ProductSample
from pipeline.evaluation.identity import METRICS, STATED, IdentityQuality
from pipeline.evaluation.metrics import Average, cosines
from pipeline.evaluation.policy import DEFAULT, SpacePolicy
from pipeline.evaluation.retrieval import RetrievalEvaluation, evaluate_retrieval
from pipeline.evaluation.verdict import differences, verdict
from tests.unit.pipeline.indexes import categories, clustered_vectors

COUNT = 120
GOOD, BAD = 0.2, 30.0  # Spreads around the centre of a category: perfect and useless.


def _vectors(spread: float, seed: int) -> F32:
    return clustered_vectors(categories(COUNT), spread, seed=seed)


def _retrieval(*, text: float, words: float) -> RetrievalEvaluation:
    """Vectors of titles and of a baseline, each near the centre of its category or far from it."""
    products = [Product(id=f"p{number:03}", category=category) for number, category in enumerate(categories(COUNT))]
    baselines = {TFIDF_WORDS: partial(cosines, _vectors(words, 1)), RANDOM: partial(cosines, _vectors(BAD, 2))}
    sample = ProductSample(products=products, vectors={"text": _vectors(text, 0)})
    return evaluate_retrieval(sample, SpacePolicy.parse(DEFAULT), baselines, seed=0)


def _find(comparisons: list[Comparison], rival: str, by: str) -> Comparison:
    (found,) = [comparison for comparison in comparisons if (comparison.rival, comparison.by) == (rival, by)]
    return found


def test_a_baseline_that_is_better_is_a_loss_with_an_interval_below_zero() -> None:
    loss = _find(compare(_retrieval(text=BAD, words=GOOD), [], seed=0), TFIDF_WORDS, "category")
    assert loss.is_worse
    assert not loss.is_better
    assert loss.difference.low < loss.difference.value < loss.difference.high < 0
    assert loss.difference.value == pytest.approx(loss.value - loss.rival_value)
    assert loss.queries == COUNT


def test_a_space_that_is_as_good_is_neither_better_nor_worse() -> None:
    even = _find(compare(_retrieval(text=GOOD, words=GOOD), [], seed=0), TFIDF_WORDS, "category")
    assert (even.difference.value, even.is_better, even.is_worse) == (0, False, False)


def test_differences_are_paired_by_query() -> None:
    """Queries that differ much from each other, and by the same from the rival, leave a narrow interval."""
    values = np.linspace(0.1, 1, 50)
    quality = IdentityQuality(
        kind=STATED, queries=50, products=60, methods={}, r_precision={"text": values - 0.05, TFIDF_WORDS: values}
    )
    (difference,) = [
        c.difference for c in compare(_retrieval(text=GOOD, words=GOOD), [quality], seed=0) if c.by == STATED
    ]
    assert difference == pytest.approx((-0.05, -0.05, -0.05))


def test_a_space_is_compared_with_what_sees_the_same_of_a_product() -> None:
    assert RIVALS["image"] == (UNTRAINED, RANDOM)
    assert RIVALS["text"] == (TFIDF_WORDS, TFIDF_CHARACTERS, RANDOM)
    assert {"image", "text", *RIVALS["image"], *RIVALS["text"]} == set(RIVALS["product"])
    compared = {(c.space, c.rival) for c in compare(_retrieval(text=GOOD, words=GOOD), [], seed=0)}
    assert compared == {("text", TFIDF_WORDS), ("text", RANDOM)}  # The others were not measured.


def test_the_verdict_has_a_sentence_for_every_loss_and_counts_the_rest() -> None:
    retrieval = _retrieval(text=BAD, words=GOOD)
    values = np.array([1.0] * 40)
    quality = IdentityQuality(
        kind=STATED,
        queries=40,
        products=90,
        methods={
            name: [Average(share, share, share)] * len(METRICS) for name, share in (("text", 0.25), (TFIDF_WORDS, 1))
        },
        r_precision={"text": values / 4, TFIDF_WORDS: values},
    )
    comparisons = compare(retrieval, [quality], seed=0)
    lines = list(verdict(retrieval, [quality], comparisons))
    losses = [line for line in lines if " better than the " in line]
    assert losses[-1] == (
        "* At finding the same product by stated groups, TF-IDF of words (R-precision 1.000 against 0.250, by 0.750 "
        "(0.750–0.750)) is better than the text space."
    )
    assert [line.partition(", ")[0] for line in losses[:-1]] == ["* By level 1", "* By category"]
    worse = sum(comparison.is_worse for comparison in comparisons)
    assert worse >= len(losses) == 3
    assert f"{worse} worse." in "".join(lines)
    table = "\n".join(differences(comparisons))
    assert "| text − TF-IDF of words |" in table
    assert table.count("**−") == worse


def test_a_verdict_without_a_loss_ends_with_the_count() -> None:
    retrieval = _retrieval(text=GOOD, words=BAD)
    lines = list(verdict(retrieval, [], compare(retrieval, [], seed=0)))
    assert [line for line in lines if line][-1].endswith("0 without a difference that the queries show, 0 worse.")


def test_all_that_are_better_than_a_space_are_in_one_sentence_the_best_first() -> None:
    losses = [
        Comparison(
            measure="precision@10", by="tag colour", space="product, photo alone", rival=rival, queries=9, value=0.25,
            rival_value=value, difference=Average(0.25 - value, -0.75, -0.125),
        )
        for rival, value in ((UNTRAINED, 0.5), ("image", 0.75))
    ]  # fmt: skip
    (line,) = [line for line in verdict(_retrieval(text=GOOD, words=GOOD), [], losses) if " better than " in line]
    assert line == (
        "* By tag colour, the image space (precision@10 0.750 against 0.250, by 0.500 (0.125–0.750)) and an untrained "
        "MobileNet (precision@10 0.500 against 0.250, by 0.250 (0.125–0.750)) are better than the product space "
        "queried by photo alone."
    )
