"""Which spaces words alone are searched in: the queries that decide, and the choice."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from lookalike.v1.types_pb2 import SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import F32, normalised
from pipeline.word_queries import (
    MAX_QUERIES,
    MIN_QUERIES,
    ExamProducts,
    SpaceChoice,
    category_and_tag,
    choose_spaces,
    two_words,
)

COLOURS, KINDS, EXTRAS = 8, 7, 40
WORDS = [f"colour{i}" for i in range(COLOURS)] + [f"kind{i}" for i in range(KINDS)] + [f"x{i}" for i in range(EXTRAS)]


def exam(count: int = 600, *, labelled: bool = True, text: bool = True, product: bool = True) -> ExamProducts:
    """Products with a colour, a kind and another word.

    text: whether text vectors tell words apart. product: whether product vectors tell colours and kinds apart.
    """
    rng = np.random.default_rng(0)
    words = [
        [f"colour{rng.integers(COLOURS)}", f"kind{rng.integers(KINDS)}", f"x{rng.integers(EXTRAS)}"]
        for _ in range(count)
    ]
    titles = [" ".join(each) for each in words]
    return ExamProducts(
        words=words,
        categories=[f"things/{kind}" for _, kind, _ in words],
        tags=[(f"colour:{colour}",) if labelled else () for colour, _, _ in words],
        texts=by_words(titles) if text else blurred(titles),
        products=by_labels(titles) if product else blurred(titles),
    )


def by_words(texts: Sequence[str]) -> F32:
    return normalised(np.array([[word in text.split() for word in WORDS] for text in texts], dtype=np.float32))


def by_labels(texts: Sequence[str]) -> F32:
    """As `by_words`, of colours and kinds alone."""
    vectors = by_words(texts)
    vectors[:, COLOURS + KINDS :] = 1e-3
    return normalised(vectors)


def blurred(texts: Sequence[str]) -> F32:
    return np.full((len(texts), len(WORDS)), 1 / np.sqrt(len(WORDS)), dtype=np.float32)


def choice(
    products: ExamProducts, text: Callable[[Sequence[str]], F32], product: Callable[[Sequence[str]], F32]
) -> SpaceChoice:
    return choose_spaces(products, str.split, lambda queries: (text(queries), product(queries)), seed=0)


def test_where_titles_say_more_than_labels_the_text_space_alone_is_chosen() -> None:
    chosen = choice(exam(labelled=False, product=False), by_words, blurred)

    assert chosen.shares == {SPACE_TEXT: 1.0}
    (figures,) = chosen.figures.values()
    assert figures["found_by_text_share"]["1.0"] > figures["found_by_text_share"]["0.0"]


def test_where_only_the_product_space_tells_products_apart_it_alone_is_chosen() -> None:
    assert choice(exam(text=False), blurred, by_labels).shares == {SPACE_PRODUCT: 1.0}


def test_where_each_space_finds_what_the_other_does_not_both_are_chosen() -> None:
    def words_that_are_no_kinds(texts: Sequence[str]) -> F32:
        vectors = by_words(texts)
        vectors[:, COLOURS : COLOURS + KINDS] = 1e-3
        return normalised(vectors)

    products = exam()
    products = ExamProducts(
        words=products.words,
        categories=products.categories,
        tags=products.tags,
        texts=words_that_are_no_kinds([" ".join(words) for words in products.words]),
        products=products.products,
    )
    chosen = choice(products, words_that_are_no_kinds, by_labels)

    assert chosen.shares == {SPACE_TEXT: 0.3, SPACE_PRODUCT: 0.7}
    assert len(chosen.figures) == 2


def test_too_few_queries_decide_nothing() -> None:
    assert choice(exam(8), by_words, by_labels).shares == {}


def test_a_query_is_two_words_of_a_title_and_right_are_the_titles_with_both() -> None:
    products = exam()
    rows = {word: {row for row, words in enumerate(products.words) if word in words} for word in WORDS}
    queries = [*two_words(products.words, rows, np.random.default_rng(0))]

    assert MIN_QUERIES <= len({query.text for query in queries}) == len(queries) <= MAX_QUERIES
    for query in queries:
        expected = {row for row, words in enumerate(products.words) if {*query.text.split()} <= {*words}}
        assert query.right == expected


def test_labels_are_queries_where_titles_have_their_words() -> None:
    products = ExamProducts(
        words=[["red", "rain", "shoes"]] * 3,
        categories=["fashion/rain-shoes"] * 3,
        tags=[("colour:red", "c:17", "season:2026", "fit:wide")] * 3,
        texts=np.eye(3, dtype=np.float32),
        products=np.eye(3, dtype=np.float32),
    )
    rows = {word: {0, 1, 2} for word in ("red", "rain", "shoes", "17", "2026")}
    queries = category_and_tag(products, rows, str.split, np.random.default_rng(0))

    assert [(query.text, query.right) for query in queries] == [("red rain shoes", frozenset(range(3)))]
