"""What the load asks, and how often."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from loadtest.mix import FILTERED, KINDS, PHRASES, Asker, Listed, Sample, Zipf, parse_mix
from lookalike.errors import BadSettings
from lookalike.requests import search_request

PRODUCTS = [
    Listed(id=f"p-{i}", title=f"title {i}" if i % 2 else " ", category="fashion/shoes" if i % 3 else "", price=float(i))
    for i in range(50)
]
ALL = Sample(products=PRODUCTS, photos=[b"jpeg"], vectors=np.ones((3, 4), dtype=np.float32), vector_space="image")


def asked(sample: Sample, n: int = 2000, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
    asker = Asker(sample, {kind: KINDS[kind] for kind in sample.kinds()}, seed)
    return [(kind, dict(question)) for kind, question in (asker.next() for _ in range(n))]


def test_every_kind_is_asked_in_its_proportion() -> None:
    counted = Counter(kind for kind, _ in asked(ALL))
    total = sum(KINDS.values())
    for kind, weight in KINDS.items():
        assert counted[kind] / 2000 == pytest.approx(weight / total, abs=0.05)


def test_kinds_without_anything_to_ask_about_are_not_asked() -> None:
    assert Sample(products=PRODUCTS).kinds() == ("product", "text")
    assert {kind for kind, _ in asked(Sample(products=PRODUCTS))} == {"product", "text"}


def test_every_question_can_be_put_into_a_request() -> None:
    for _, question in asked(ALL):
        request = search_request(**question)
        assert len(request.examples) == 1


def test_texts_are_titles_and_phrases_in_both_languages_and_never_empty() -> None:
    texts = {question["text"] for kind, question in asked(ALL, 5000) if kind == "text"}
    assert all(text.strip() for text in texts)
    assert texts >= set(PHRASES)
    assert any(text.startswith("title") for text in texts)


def test_some_questions_carry_a_filter() -> None:
    filters = [question.keys() & {"in_stock", "max_price", "category_in"} for _, question in asked(ALL)]
    assert sum(map(bool, filters)) / 2000 == pytest.approx(FILTERED, abs=0.05)
    assert set.union(*map(set, filters)) == {"in_stock", "max_price", "category_in"}


def test_equal_seeds_ask_equal_questions() -> None:
    assert repr(asked(ALL, seed=3)) == repr(asked(ALL, seed=3))
    assert repr(asked(ALL, seed=3)) != repr(asked(ALL, seed=4))


def test_popularity_falls_with_the_rank() -> None:
    rng, zipf = random.Random(0), Zipf(100)
    drawn = Counter(zipf.draw(rng) for _ in range(50_000))
    assert set(drawn) == set(range(100))
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.2)


def test_a_draw_never_leaves_the_ranks() -> None:
    class One(random.Random):
        def random(self) -> float:
            return 1.0  # More than random() gives: the sum may be rounded down.

    assert Zipf(3).draw(One()) == 2


def test_a_mix_is_weights_by_kind() -> None:
    assert parse_mix("product=3,text=0.5", ALL.kinds()) == {"product": 3.0, "text": 0.5}


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("products=1", "not one of product, photo, text, vector"),
        ("product", "write product=WEIGHT"),
        ("product=0", "above 0"),
        ("product=nan", "above 0"),
        ("product=-1", "above 0"),
        ("photo=1", "need --images"),
        ("vector=1", "need --vectors"),
        ("", "not one of"),
    ],
)
def test_a_mix_that_makes_no_sense_is_refused(text: str, complaint: str) -> None:
    with pytest.raises(BadSettings, match=complaint):
        parse_mix(text, ("product", "text"))
