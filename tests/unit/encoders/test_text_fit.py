"""Whether a text encoder still fits: the same products are measured, and every limit is reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from encoders.splits import Split, split_of
from encoders.text import fit
from encoders.text import model as text_model
from encoders.text.fit import MAX_CHANGED, MAX_LOSS, MAX_UNSEEN_WORDS, MIN_PRODUCTS, Fit, measure, reason_to_train
from encoders.text.hybrid import LabelledTitles
from encoders.text.model import TextModel
from encoders.text.train import train

COLOURS, THINGS = ("red", "blue", "green", "black"), ("cotton shirt", "table lamp", "coffee mug", "garden chair")
TITLES = [f"{colour} {thing} {number}" for number in range(12) for colour in COLOURS for thing in THINGS]
CATEGORIES = [title.split()[2] for title in TITLES]
TRAINED = Fit(products=MIN_PRODUCTS, figures={"category": 0.8, "identity": 0.6}, texts=[])


def catalogue(titles: list[str], *, first_id: int = 0) -> LabelledTitles:
    ids = [str(first_id + number) for number in range(len(titles))]
    return LabelledTitles(ids=ids, titles=titles, categories=CATEGORIES[: len(titles)], groups=[""] * len(titles))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    artifact = tmp_path_factory.mktemp("text") / "artifact"
    train(TITLES, artifact, kind="fasttext")
    return text_model.load(artifact)


@pytest.fixture(autouse=True)
def few_are_enough(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "model" in request.fixturenames:
        monkeypatch.setattr(fit, "MIN_PRODUCTS", 50)


def test_an_encoder_that_finds_as_much_is_kept() -> None:
    now = replace(
        TRAINED,
        figures={"category": 0.8 - MAX_LOSS + 1e-9, "identity": 0.9},
        changed=MAX_CHANGED,
        unseen_words=MAX_UNSEEN_WORDS,
    )

    assert reason_to_train(TRAINED, now) == ""


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"products": MIN_PRODUCTS - 1}, "too few"),
        ({"figures": {}}, "too few"),
        ({"changed": MAX_CHANGED + 0.001}, "20.1% of the texts changed"),
        ({"unseen_words": MAX_UNSEEN_WORDS + 0.001}, "does not know 10.1% of the words"),
        ({"figures": {"category": 0.7, "identity": 0.5}}, "by category it finds 0.1000 less"),
        ({"figures": {"category": 0.8, "identity": 0.594}}, "by identity it finds 0.0060 less"),
        ({"figures": {"identity": 0.6}}, "categories or groups came or went"),
    ],
)
def test_each_limit_is_a_reason_to_train(change: dict[str, Any], reason: str) -> None:
    assert reason in reason_to_train(TRAINED, replace(TRAINED, **change))


def test_the_texts_that_changed_and_their_unseen_words_are_counted(model: TextModel) -> None:
    trained = measure(model, catalogue(TITLES), TITLES)
    assert (trained.changed, trained.unseen_words) == (0, 0)
    numbers = [n for n in range(len(TITLES)) if split_of(str(n)) != Split.TEST]
    assert trained.products == len(numbers)
    changed = list(TITLES)
    changed[numbers[0]], changed[numbers[1]] = "red zeppelin lamp quixotic", "blue shirt"

    now = measure(model, catalogue(changed), changed, trained.texts)

    assert now.changed == round(2 / len(numbers), 4)
    assert now.unseen_words == round(2 / 6, 4)


def test_held_out_products_do_not_decide(model: TextModel) -> None:
    changed = ["zeppelin" if split_of(str(number)) == Split.TEST else title for number, title in enumerate(TITLES)]

    assert measure(model, catalogue(changed), changed) == measure(model, catalogue(TITLES), TITLES)


def test_figures_do_not_depend_on_the_order_of_the_catalogue(model: TextModel) -> None:
    forwards = catalogue(TITLES)
    backwards = LabelledTitles(
        ids=forwards.ids[::-1], titles=TITLES[::-1], categories=CATEGORIES[::-1], groups=forwards.groups
    )

    assert measure(model, backwards, TITLES[::-1]) == measure(model, forwards, TITLES)


def test_with_groups_identity_is_by_groups_which_are_measured_whole(
    model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "MAX_POOL", 60)
    groups = [" ".join(title.split()[:3]) for title in TITLES]  # All but the number: a dozen titles each.

    measured = measure(model, replace(catalogue(TITLES), groups=groups), TITLES)

    assert measured.products == 60
    assert measured.figures["identity"] > 0.5  # By chance a fifth: a dozen of sixty.


def test_an_encoder_that_knows_nothing_of_the_catalogue_finds_less(model: TextModel, tmp_path: Path) -> None:
    train(["alpha beta", "gamma delta"] * 40, tmp_path / "other", kind="fasttext")
    other = text_model.load(tmp_path / "other")
    trained = measure(model, catalogue(TITLES), TITLES)

    now = measure(other, catalogue(TITLES), TITLES, trained.texts)

    assert now.figures["category"] < trained.figures["category"] - 0.1
    assert "less than when it was trained" in reason_to_train(
        replace(trained, products=5000), replace(now, products=5000)
    )
