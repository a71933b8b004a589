"""The neighbours that a report shows, and what they have in common with the query."""

from __future__ import annotations

import numpy as np

from lookalike.v1.types_pb2 import Product
from pipeline.evaluation.baselines import TFIDF_WORDS
from pipeline.evaluation.held_out import ProductSample
from pipeline.evaluation.labels import find_labellings
from pipeline.evaluation.metrics import cosines
from pipeline.evaluation.neighbours import choose_queries, in_common, tables
from pipeline.evaluation.policy import DEFAULT, SpacePolicy
from pipeline.evaluation.retrieval import evaluate_retrieval

PRODUCTS = [
    Product(id="a", title="Red Canvas sneaker | 27", category="shoes/sneakers", tags=["colour:red", "group:1"]),
    Product(id="b", title="canvas sneaker red", category="shoes/sneakers", tags=["colour:red", "group:1"]),
    Product(id="c", title="leather boot", category="shoes/boots", tags=["colour:red"]),
    Product(id="d", title="leather boot", category="shoes/boots", tags=["colour:blue", "group:2"]),
    Product(id="e", title="mug", category="home/mugs", tags=[]),
    Product(id="f", title="cup", category="home/mugs", tags=["colour:blue"]),
]


def _common(query: int, neighbour: int) -> list[str]:
    return in_common(PRODUCTS, find_labellings(PRODUCTS), query, neighbour)


def test_products_have_in_common_that_they_are_the_same_their_finest_level_and_tags() -> None:
    assert _common(0, 1) == ["same product", "category", "colour"]
    assert _common(0, 2) == ["level 1", "colour"]
    assert _common(2, 3) == ["category"]
    assert _common(3, 5) == ["colour"]
    assert _common(2, 4) == []  # Neither has a group, which is not the same group.


def test_the_table_of_a_query_marks_words_and_labels_that_are_the_same() -> None:
    vectors = np.eye(6, dtype=np.float32)[[0, 0, 1, 1, 2, 2]]
    baselines = {TFIDF_WORDS: lambda: cosines(vectors), "random vectors": lambda: cosines(vectors)}
    sample = ProductSample(products=PRODUCTS, vectors={"text": vectors})
    retrieval = evaluate_retrieval(sample, SpacePolicy.parse(DEFAULT), baselines, seed=0)
    text = "\n".join(tables(PRODUCTS, retrieval, [0], ""))
    assert "| | text | TF-IDF of words |\n" in text
    assert "### Red Canvas sneaker \\| 27\n\nshoes/sneakers, colour:red\n" in text
    assert "| 1 | **canvas sneaker red** (same product, category, colour) | **canvas" in text
    assert "| 2 | leather boot (level 1, colour) |" in text
    assert "![" not in text
    assert "](sheet.png)" in "\n".join(tables(PRODUCTS, retrieval, [0], "sheet.png"))
    assert list(tables(PRODUCTS, retrieval, [], "")) == []


def test_queries_are_of_different_labels_and_can_be_shown() -> None:
    labelling = next(labelling for labelling in find_labellings(PRODUCTS) if labelling.title == "category")
    shown = choose_queries(labelling, np.array([True, True, False, False, True, True]), seed=0)
    assert sorted(PRODUCTS[row].category for row in shown) == ["home/mugs", "shoes/sneakers"]
