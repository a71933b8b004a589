"""Chooses the spaces that words alone are searched in, by queries made of a catalogue's own words and labels. Pure.

A query is not a title: its few words all count. The product space knows what labels teach, such as colours and kinds,
whatever words say so; the text space every word that titles have. Which finds more depends on the catalogue.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lookalike.v1.types_pb2 import SPACE_PRODUCT, SPACE_TEXT
from lookalike.vectors import F32

# Of the text space; the product space has the rest. On the drawn catalogue, with the text encoder `hybrid`, queries
# of a tag and a category, and of any two words of a title, find .93 and .50 with 0, .94 and .80 with .3, .90 and .85
# with .5, .83 and .91 with 1. Without its tags, queries of a colour and a kind find .44 with 0, .78 with .3, .80 with 1
TEXT_SHARES = (0.0, 0.3, 1.0)
# A shopper names a kind and what it should be like more often than any two words that some title has.
TWO_WORDS, LABELS = "two words of a title", "a category and a tag"
WEIGHTS = {TWO_WORDS: 1.0, LABELS: 2.0}
TWO_SPACES = 0.01  # What the second space has to gain, since it costs every query a second search.
MAX_PRODUCTS = 10_000  # Every query is compared with all of them.
MAX_QUERIES = 400
MIN_QUERIES = 30  # Of one kind; fewer are no evidence.
MIN_RIGHT, HITS = 2, 10
MAX_RIGHT_SHARE = 0.05  # Words that more products have say too little to tell spaces apart.
_ATTEMPTS = 20  # Draws per query.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExamProducts:
    """Products that no encoder was trained on the labels of, with both vectors."""

    words: Sequence[Sequence[str]]  # Of the titles.
    categories: Sequence[str]
    tags: Sequence[Sequence[str]]
    texts: F32  # (n, dt)
    products: F32  # (n, dp)


@dataclass(frozen=True, slots=True)
class WordQuery:
    """The words of a query, and the rows of the products that it should find."""

    text: str
    right: frozenset[int]


Encode = Callable[[Sequence[str]], tuple[F32, F32]]  # Texts to their vectors in the text and in the product space.


@dataclass(frozen=True, slots=True, kw_only=True)
class SpaceChoice:
    """The chosen spaces by number with their shares, and the figures that decided."""

    shares: Mapping[int, float]
    figures: Mapping[str, Any]


def choose_spaces(exam: ExamProducts, split: Callable[[str], Sequence[str]], encode: Encode, seed: int) -> SpaceChoice:
    """The spaces in which queries of two words, and of two labels, find most by WEIGHTS; none of too few queries.

    split: the words of a text, as the encoder sees them.
    """
    rng = np.random.default_rng(seed)
    rows_of_word = _rows_of_words(exam.words)
    exams = {
        TWO_WORDS: list(two_words(exam.words, rows_of_word, rng)),
        LABELS: list(category_and_tag(exam, rows_of_word, split, rng)),
    }
    exams = {name: queries for name, queries in exams.items() if len(queries) >= MIN_QUERIES}
    if not exams:
        return SpaceChoice(shares={}, figures={})
    found = {name: _found(queries, exam, encode) for name, queries in exams.items()}
    weights = [WEIGHTS[name] for name in found]
    means = np.average([*found.values()], axis=0, weights=weights).tolist()
    net = [mean - TWO_SPACES * (0 < share < 1) for share, mean in zip(TEXT_SHARES, means, strict=True)]
    chosen = TEXT_SHARES[int(np.argmax(net))]
    shares = {SPACE_TEXT: chosen, SPACE_PRODUCT: round(1 - chosen, 6)}
    figures = {
        name: {"queries": len(exams[name]), "found_by_text_share": dict(zip(map(str, TEXT_SHARES), each, strict=True))}
        for name, each in found.items()
    }
    return SpaceChoice(shares={int(space): share for space, share in shares.items() if share}, figures=figures)


def _rows_of_words(titles: Sequence[Sequence[str]]) -> dict[str, set[int]]:
    rows: dict[str, set[int]] = {}
    for row, words in enumerate(titles):
        for word in words:
            rows.setdefault(word, set()).add(row)
    return rows


def two_words(
    titles: Sequence[Sequence[str]], rows_of_word: Mapping[str, Collection[int]], rng: np.random.Generator
) -> Iterator[WordQuery]:
    """Queries of two words that occur in one title, in their order; right are the titles with both."""
    seen: set[tuple[str, str]] = set()
    for row in rng.integers(len(titles), size=_ATTEMPTS * MAX_QUERIES).tolist():
        words = list(dict.fromkeys(titles[row]))
        if len(words) < 2:
            continue
        first, second = np.sort(rng.choice(len(words), 2, replace=False)).tolist()
        pair = words[first], words[second]
        right = frozenset(rows_of_word[pair[0]]) & frozenset(rows_of_word[pair[1]])
        if pair not in seen and MIN_RIGHT <= len(right) <= MAX_RIGHT_SHARE * len(titles):
            seen.add(pair)
            yield WordQuery(" ".join(pair), right)
            if len(seen) == MAX_QUERIES:
                return


def category_and_tag(
    exam: ExamProducts,
    rows_of_word: Mapping[str, Collection[int]],
    split: Callable[[str], Sequence[str]],
    rng: np.random.Generator,
) -> Iterator[WordQuery]:
    """Queries of a tag's value and the last part of a category; right are the products with both.

    Only of labels that are words of titles: "colour:red" and "shoes/sneakers" are, "c:17" and "dept/204" are not.
    """
    rows: dict[tuple[str, str], set[int]] = {}
    for row, (category, tags) in enumerate(zip(exam.categories, exam.tags, strict=True)):
        for tag in tags:
            rows.setdefault((tag, category), set()).add(row)
    pairs = sorted(pair for pair, right in rows.items() if len(right) >= MIN_RIGHT)
    count = 0
    for position in rng.permutation(len(pairs)).tolist():
        tag, category = pairs[position]
        value = tag.rpartition(":")[2].replace("-", " ")
        kind = category.rpartition("/")[2].replace("-", " ")
        if all(known_words(split(text), rows_of_word) for text in (value, kind)):
            yield WordQuery(f"{value} {kind}", frozenset(rows[tag, category]))
            count += 1
            if count == MAX_QUERIES:
                return


def known_words(words: Sequence[str], known: Collection[str]) -> bool:
    """Whether there are words, and all of them are known."""
    return bool(words) and all(word in known and not word.isdecimal() for word in words)


def _found(queries: Sequence[WordQuery], exam: ExamProducts, encode: Encode) -> list[float]:
    """For each of TEXT_SHARES the mean share of the first hits that are right, as many as there are right ones."""
    texts, products = encode([query.text for query in queries])
    found: list[list[float]] = [[] for _ in TEXT_SHARES]
    for query, text, product in zip(queries, texts, products, strict=True):
        by_text, by_product = exam.texts @ text, exam.products @ product
        hits = min(len(query.right), HITS)
        for share, shares in zip(TEXT_SHARES, found, strict=True):
            scores = share * by_text + (1 - share) * by_product
            best = np.argsort(-scores, kind="stable")[:hits].tolist()
            shares.append(len(query.right.intersection(best)) / hits)
    return [round(float(np.mean(shares)), 4) for shares in found]
