"""The neighbours that a report shows: queries, and what each neighbour has in common with its query. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

import numpy as np
import numpy.typing as npt

from encoders.labels import group_of, without_groups
from lookalike.v1.types_pb2 import Product
from pipeline.evaluation.baselines import TFIDF_WORDS
from pipeline.evaluation.cells import cell
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.retrieval import RankingQuality, RetrievalEvaluation

QUERIES = 8
SAME_PRODUCT = "same product"
_LISTED, _TITLE_CHARS = 5, 70


def choose_queries(labelling: Labelling, drawable: npt.NDArray[np.bool_], seed: int) -> list[int]:
    """The rows of at most QUERIES random queries, each of another label; drawable (n,): which can be shown."""
    random = np.random.default_rng(seed)
    candidates = drawable & labelling.is_query
    codes = random.permutation(np.unique(labelling.codes[candidates]))[:QUERIES]
    return [int(random.choice(np.flatnonzero(candidates & (labelling.codes == code)))) for code in np.sort(codes)]


def shown_columns(retrieval: RetrievalEvaluation) -> dict[str, RankingQuality]:
    """The rankings that are shown side by side: every space, and TF-IDF of words."""
    baselines = {name: column for name, column in retrieval.baselines.items() if name == TFIDF_WORDS}
    return {**retrieval.spaces, **baselines}


def in_common(products: Sequence[Product], labellings: Sequence[Labelling], query: int, neighbour: int) -> list[str]:
    """What two products share: that they are the same one, the finest level of the category, and kinds of tags."""
    equal = [
        labelling.title
        for labelling in labellings
        if labelling.codes[query] >= 0 and labelling.codes[query] == labelling.codes[neighbour]
    ]
    tags = [title.removeprefix("tag ") for title in equal if title.startswith("tag ")]
    levels = [title for title in equal if not title.startswith("tag ")]  # From broad to narrow.
    group = group_of(products[query].tags)
    same = [SAME_PRODUCT] if group and group == group_of(products[neighbour].tags) else []
    return [*same, *levels[-1:], *tags]


def neighbours_in_common(
    products: Sequence[Product], retrieval: RetrievalEvaluation, query: int, count: int
) -> Mapping[str, list[tuple[int, list[str]]]]:
    """By column, the rows of the nearest `count` and what each has in common with the query."""
    return {
        name: [
            (row, in_common(products, retrieval.labellings, query, row))
            for row in column.nearest[query][:count].tolist()
        ]
        for name, column in shown_columns(retrieval).items()
    }


def tables(
    products: Sequence[Product], retrieval: RetrievalEvaluation, queries: Sequence[int], picture: str
) -> Iterator[str]:
    """The picture, if there is one, and the titles of the same neighbours: pictures lack the fonts of most scripts."""
    labelling = retrieval.main_labelling
    if labelling is None or not queries:
        return
    title = cell(labelling.title)
    yield "## Neighbours"
    yield ""
    yield (
        f"{len(queries)} random queries of different labels, and their nearest in each space and by TF-IDF of words. "
        "**Bold** words are in the query's title, too; in brackets are the labels that both have."
    )
    yield ""
    if picture:
        yield (
            f"![queries and their nearest: a blue frame has the query's {title}, a red one another, a green one is the "
            f"same product]({picture})"
        )
        yield ""
    for query in queries:
        yield from _table(products, retrieval, query)


def _table(products: Sequence[Product], retrieval: RetrievalEvaluation, query: int) -> Iterator[str]:
    columns = neighbours_in_common(products, retrieval, query, _LISTED)
    yield f"### {cell(_short_title(products[query]))}"
    yield ""
    yield cell(", ".join(filter(None, [products[query].category, *without_groups(products[query].tags)])))
    yield ""
    yield "| | " + " | ".join(columns) + " |"
    yield "| ---: |" + " --- |" * len(columns)
    for rank in range(max(map(len, columns.values()))):
        texts = []
        for neighbours in columns.values():
            row, common = neighbours[rank]
            title = _with_bold_words(_short_title(products[row]), products[query].title)
            texts.append(f"{title} ({cell(', '.join(common))})" if common else title)
        yield f"| {rank + 1} | " + " | ".join(texts) + " |"
    yield ""


def _short_title(product: Product) -> str:
    title = " ".join(product.title.split()) or product.id
    return title if len(title) <= _TITLE_CHARS else f"{title[: _TITLE_CHARS - 1]}…"


def _with_bold_words(title: str, query: str) -> str:
    """The title as a table cell, with runs of words that the query has, too, in bold."""
    known = set(query.lower().split())
    runs = groupby(title.split(), key=lambda word: word.lower() in known)
    return " ".join(f"**{cell(' '.join(words))}**" if bold else cell(" ".join(words)) for bold, words in runs)
