"""Hybrid text vectors: how topic and spelling are weighed, and what they are weighed by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from encoders.splits import Split, split_of
from encoders.text import hybrid, lexical
from encoders.text.hybrid import DEFAULT_LEXICAL_DIM, DEFAULT_TOPIC_WEIGHT, TOPIC_WEIGHTS, Choice, LabelledTitles
from encoders.text.perturbation import perturb_titles
from lookalike.vectors import F32, normalised

KINDS = ("lamp", "mug", "chair", "clock")
NUMBERS = [f"{letter}{number}" for letter in "abcdefghij" for number in range(1000, 1020)]
TITLES = [f"{KINDS[i % 4]} {NUMBERS[i // 2]} {'black' if i % 2 else 'in black'}" for i in range(400)]
CATEGORIES = [f"home/{title.split()[0]}" for title in TITLES]
LABELLED = LabelledTitles(
    ids=[str(i) for i in range(len(TITLES))], titles=TITLES, categories=CATEGORIES, groups=[""] * len(TITLES)
)


def _topics(titles: list[str] | tuple[str, ...]) -> F32:
    """A topic vector that knows the kind of the product and nothing else."""
    rng = np.random.default_rng(0)
    directions = normalised(rng.standard_normal((4, 8)).astype(np.float32))
    kinds = [next((i for i, kind in enumerate(KINDS) if kind in title), 0) for title in titles]
    return directions[kinds]


def _choose(labelled: LabelledTitles, seed: int = 0) -> Choice:
    idf = lexical.fit_idf(labelled.titles)
    return hybrid.choose(labelled, _topics, lambda titles, dim: lexical.encode(titles, idf, dim), seed)  # type: ignore[arg-type]  # any sequence


def test_a_text_has_both_vectors_in_their_weights() -> None:
    topic, spelling = np.eye(2, dtype=np.float32)[:1], np.eye(3, dtype=np.float32)[1:2]
    (vector,) = hybrid.side_by_side(topic, spelling, 2.0)
    np.testing.assert_allclose(vector, np.array([2, 0, 0, 1, 0]) / np.sqrt(5), rtol=1e-6)


def test_a_text_without_topic_has_its_spelling_alone_and_one_without_either_zeros() -> None:
    topics, spelling = np.zeros((2, 2), np.float32), np.array([[0, 1], [0, 0]], np.float32)
    assert hybrid.side_by_side(topics, spelling, 2.0).tolist() == [[0, 0, 0, 1], [0, 0, 0, 0]]


def test_the_choice_keeps_the_precision_by_category_of_the_better_vector() -> None:
    choice = _choose(LABELLED)
    figures = choice.figures
    assert choice.topic_weight in TOPIC_WEIGHTS
    best = max(alone["category"] for alone in figures["alone"].values())
    assert figures["chosen"]["category"] >= best - hybrid.MAX_LABEL_LOSS
    assert figures["chosen"]["identity"] > figures["alone"]["scdv"]["identity"] + 0.5


def _figures(*rows: tuple[float, int, float, float]) -> dict[tuple[float, int], dict[str, float]]:
    return {(weight, dim): {"category": category, "identity": identity} for weight, dim, category, identity in rows}


def test_the_best_identity_is_taken_of_those_that_lose_no_precision() -> None:
    measured = _figures(
        (0.0, 256, 0.7, 0.9),
        (1.0, 256, 0.78, 0.8),
        (1.4, 256, 0.797, 0.7),
        (2.0, 256, 0.8, 0.6),
        (np.inf, 256, 0.8, 0.3),
    )
    assert hybrid.best_candidate(measured) == (1.4, 256)


def test_if_all_lose_precision_the_one_that_loses_least_is_taken() -> None:
    measured = _figures((0.0, 256, 0.9, 0.9), (1.0, 256, 0.8, 0.8), (4.0, 256, 0.7, 0.7), (np.inf, 256, 0.6, 0.3))
    assert hybrid.best_candidate(measured) == (1.0, 256)


@pytest.mark.parametrize(("gain", "dim"), [(0.005, 256), (0.02, 512)])
def test_more_dimensions_are_taken_only_if_they_gain_much(gain: float, dim: int) -> None:
    measured = _figures((1.4, 256, 0.8, 0.7), (1.4, 512, 0.8, 0.7 + gain))
    assert hybrid.best_candidate(measured) == (1.4, dim)


def test_without_categories_the_default_is_taken_and_measured() -> None:
    choice = _choose(LabelledTitles.unlabelled(TITLES))
    assert (choice.topic_weight, choice.lexical_dim) == (DEFAULT_TOPIC_WEIGHT, DEFAULT_LEXICAL_DIM)
    assert choice.figures["identity_by"] == "made titles"
    assert set(choice.figures["chosen"]) == {"identity"}


def test_too_few_products_are_not_measured() -> None:
    assert _choose(LabelledTitles.unlabelled(TITLES[:20])).figures == {}


def test_identity_is_measured_by_stated_groups() -> None:
    groups = [title.split()[1] for title in TITLES]
    assert _choose(dataclasses.replace(LABELLED, groups=groups)).figures["identity_by"] == "stated groups"


def test_held_out_products_do_not_decide() -> None:
    held_out = [split_of(product_id) is Split.TEST for product_id in LABELLED.ids]
    changed = dataclasses.replace(
        LABELLED,
        categories=["other" if test else name for test, name in zip(held_out, CATEGORIES, strict=True)],
    )
    assert any(held_out)
    assert _choose(changed) == _choose(LABELLED)


def test_made_titles_differ_from_their_own_and_keep_every_number() -> None:
    made = perturb_titles(["sony wireless headphones wh1000 black"] * 200, seed=0)
    assert made == perturb_titles(["sony wireless headphones wh1000 black"] * 200, seed=0)
    assert sum(title != "sony wireless headphones wh1000 black" for title in made) > 190
    numbers = {word for title in made for word in title.split() if any(map(str.isdigit, word))}
    assert numbers == {"wh1000"}


@pytest.mark.parametrize("title", ["", "x", "鞄", "ab cd", "赤い革の鞄"])
def test_short_titles_can_be_changed_too(title: str) -> None:
    assert len(perturb_titles([title] * 50, seed=1)) == 50
