"""The generated queries of a load test, and their frequencies."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import numpy as np
import pytest

from loadtest.mix import FILTER_SHARE, KINDS, PHRASES, ProductInfo, QueryGenerator, QueryInputs, Zipf, parse_mix
from lookalike.errors import BadSettings
from lookalike.requests import search_request

PRODUCTS = [
    ProductInfo(
        id=f"p-{i}", title=f"title {i}" if i % 2 else " ", category="fashion/shoes" if i % 3 else "", price=float(i)
    )
    for i in range(50)
]
ALL = QueryInputs(products=PRODUCTS, photos=[b"jpeg"], vectors=np.ones((3, 4), dtype=np.float32), vector_space="image")


def generate(inputs: QueryInputs, n: int = 2000, seed: int = 0) -> list[tuple[str, dict[str, Any]]]:
    queries = QueryGenerator(inputs, {kind: KINDS[kind] for kind in inputs.kinds()}, seed)
    return [(kind, dict(query)) for kind, query in (queries.next() for _ in range(n))]


def test_every_kind_of_query_has_its_share() -> None:
    counted = Counter(kind for kind, _ in generate(ALL))
    total = sum(KINDS.values())
    for kind, weight in KINDS.items():
        assert counted[kind] / 2000 == pytest.approx(weight / total, abs=0.05)


def test_kinds_of_query_without_inputs_are_not_generated() -> None:
    assert QueryInputs(products=PRODUCTS).kinds() == ("product", "text")
    assert {kind for kind, _ in generate(QueryInputs(products=PRODUCTS))} == {"product", "text"}


def test_every_query_makes_a_valid_request() -> None:
    for _, query in generate(ALL):
        request = search_request(**query)
        assert len(request.examples) == 1


def test_texts_are_titles_and_phrases_in_both_languages_and_never_empty() -> None:
    texts = {query["text"] for kind, query in generate(ALL, 5000) if kind == "text"}
    assert all(text.strip() for text in texts)
    assert texts >= set(PHRASES)
    assert any(text.startswith("title") for text in texts)


def test_some_queries_have_a_filter() -> None:
    filters = [query.keys() & {"in_stock", "max_price", "category_in"} for _, query in generate(ALL)]
    assert sum(map(bool, filters)) / 2000 == pytest.approx(FILTER_SHARE, abs=0.05)
    assert set.union(*map(set, filters)) == {"in_stock", "max_price", "category_in"}


def test_the_same_seed_generates_the_same_queries() -> None:
    assert repr(generate(ALL, seed=3)) == repr(generate(ALL, seed=3))
    assert repr(generate(ALL, seed=3)) != repr(generate(ALL, seed=4))


def test_popularity_falls_with_the_rank() -> None:
    rng, zipf = random.Random(0), Zipf(100)
    drawn = Counter(zipf.draw(rng) for _ in range(50_000))
    assert set(drawn) == set(range(100))
    assert drawn[0] / drawn[9] == pytest.approx(10, rel=0.2)


def test_a_draw_is_always_a_valid_rank() -> None:
    class One(random.Random):
        def random(self) -> float:
            return 1.0  # More than random() gives: the sum may be rounded down.

    assert Zipf(3).draw(One()) == 2


def test_a_mix_is_parsed_to_weights_by_kind() -> None:
    assert parse_mix("product=3,text=0.5", ALL.kinds()) == {"product": 3.0, "text": 0.5}


@pytest.mark.parametrize(
    ("text", "reason"),
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
def test_an_invalid_mix_is_refused(text: str, reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        parse_mix(text, ("product", "text"))
