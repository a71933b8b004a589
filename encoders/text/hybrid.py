"""Hybrid text vectors: a topic vector (SCDV) beside a lexical one, weighed by what the catalogue says is alike.

Pure. The topic vector tells what kind of product it is, the lexical one which product it is. Their weight and the
lexical dimensions are chosen on products that no report is measured on: as much identity as the categories allow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from encoders.labels import broadest
from encoders.quality import identity_metrics, inner_products, label_codes, ranked_matches, rows_of_repeated
from encoders.splits import Split, splits_of
from encoders.text.perturbation import perturb_titles
from lookalike.vectors import F32, I64, normalised

TOPIC_WEIGHTS = (1.0, 1.4, 2.0, 2.8, 4.0)  # Of the topic vector; that of the lexical vector is 1.
LEXICAL_DIMS = (256, 512)
# Without categories to choose by. On titles of offers, R-precision of the same product .528 where TF-IDF has .549; on
# fashion titles, precision@10 by article type .811 where SCDV has .815.
DEFAULT_TOPIC_WEIGHT, DEFAULT_LEXICAL_DIM = 2.0, 256
MAX_LABEL_LOSS = 0.005  # Of precision@10 by category, to the better of the two alone.
NEGLIGIBLE = 0.01  # Identity that is given up for half the lexical dimensions.
MAX_POOL, MAX_QUERIES = 10_000, 2_000  # Every query is compared with the whole pool: two seconds a candidate at most.
MIN_QUERIES = 30  # Fewer are no evidence.


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledTitles:
    """The texts that vectors are computed from, with what is known of their products."""

    ids: Sequence[str]
    titles: Sequence[str]
    categories: Sequence[str]  # Paths from broad to narrow; empty: unknown.
    groups: Sequence[str]  # Products of one group are the same product; empty: unknown.

    @classmethod
    def unlabelled(cls, titles: Sequence[str]) -> LabelledTitles:
        nothing = [""] * len(titles)
        return cls(ids=[str(i) for i in range(len(titles))], titles=titles, categories=nothing, groups=nothing)


def side_by_side(topics: F32, lexical: F32, topic_weight: float) -> F32:
    """(n, dt + dl) float32 of unit norm, of topic vectors (n, dt) and lexical ones (n, dl); zeros where both are."""
    return normalised(np.hstack([np.float32(topic_weight) * topics, lexical]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The weight and dimensions of a catalogue, and the figures that they were chosen by."""

    topic_weight: float
    lexical_dim: int
    figures: Mapping[str, Any]


def choose(
    labelled: LabelledTitles,
    encode_topics: Callable[[Sequence[str]], F32],
    encode_lexical: Callable[[Sequence[str], int], F32],
    seed: int,
) -> Choice:
    """Choose the weight and dimensions: the best identity of those whose precision by category is as good as either's.

    Identity is R-precision by the groups, or of made titles of the same products where too few are known. Without
    enough products of a category in common, the default is taken, and only measured.
    """
    exam = _Exam.draw(labelled, encode_topics, encode_lexical, seed)
    if exam is None:
        return Choice(topic_weight=DEFAULT_TOPIC_WEIGHT, lexical_dim=DEFAULT_LEXICAL_DIM, figures={})
    measured = {
        (weight, dim): exam.measure(weight, dim) for dim in LEXICAL_DIMS for weight in (0.0, *TOPIC_WEIGHTS, np.inf)
    }
    weight, dim = best_candidate(measured) if exam.labellings else (DEFAULT_TOPIC_WEIGHT, DEFAULT_LEXICAL_DIM)
    alone = {"scdv": measured[np.inf, dim], "lexical": measured[0.0, dim]}
    candidates = [
        {"topic_weight": weight, "lexical_dim": dim, **figures}
        for (weight, dim), figures in measured.items()
        if weight in TOPIC_WEIGHTS
    ]
    figures = {
        "products": len(exam.topics),
        "identity_by": "stated groups" if exam.stated_groups else "made titles",
        "chosen": measured[weight, dim],
        "alone": alone,
        "candidates": candidates,
    }
    return Choice(topic_weight=weight, lexical_dim=dim, figures=figures)


def best_candidate(measured: Mapping[tuple[float, int], Mapping[str, float]]) -> tuple[float, int]:
    """The topic weight and lexical dimensions of the best identity among those that lose no precision by category.

    measured: figures of every candidate, and of each vector alone (weight 0 or infinity): "identity" and others, which
    are precisions by category.
    """
    labels = [name for name in next(iter(measured.values())) if name != "identity"]
    best = {name: max(figures[name] for figures in measured.values()) for name in labels}
    loss = {
        candidate: max(best[name] - figures[name] for name in labels)
        for candidate, figures in measured.items()
        if candidate[0] in TOPIC_WEIGHTS
    }
    allowed = [candidate for candidate in loss if loss[candidate] <= max(MAX_LABEL_LOSS, min(loss.values()))]
    identity = max(measured[candidate]["identity"] for candidate in allowed)
    fewest = min(dim for weight, dim in allowed if measured[weight, dim]["identity"] >= identity - NEGLIGIBLE)
    return max((c for c in allowed if c[1] == fewest), key=lambda c: (measured[c]["identity"], -c[0]))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Exam:
    """Products to find, queries that should find them, and what is alike."""

    topics: F32
    lexical: Mapping[int, F32]  # By dimensions.
    query_topics: F32
    query_lexical: Mapping[int, F32]
    labellings: Mapping[str, tuple[I64, I64]]  # The rows of the queries, and the code of every row.
    identity_queries: I64  # Rows of the products that the queries for identity are of.
    identity_codes: I64
    stated_groups: bool

    @classmethod
    def draw(
        cls,
        labelled: LabelledTitles,
        encode_topics: Callable[[Sequence[str]], F32],
        encode_lexical: Callable[[Sequence[str], int], F32],
        seed: int,
    ) -> _Exam | None:
        """Draw the products, whole groups together, from those that are not held out; None without enough."""
        rng = np.random.default_rng(seed)
        splits = splits_of(labelled.ids)
        rows = [row for row, title in enumerate(labelled.titles) if title.strip() and splits[row] != Split.TEST]
        if len(rows) < MIN_QUERIES:
            return None
        groups = label_codes([labelled.groups[row] for row in rows])
        pool = [rows[i] for i in np.argsort(rng.permutation(len(rows))[groups], kind="stable")[:MAX_POOL]]
        titles, paths = [labelled.titles[row] for row in pool], [labelled.categories[row] for row in pool]
        identity_codes = label_codes([labelled.groups[row] for row in pool])
        grouped = rows_of_repeated(identity_codes)
        stated = len(grouped) >= MIN_QUERIES
        if not stated:
            identity_codes = label_codes([" ".join(title.lower().split()) for title in titles])
        queries = _sample(grouped if stated else np.arange(len(pool)), rng)
        other_titles = [] if stated else perturb_titles([titles[row] for row in queries], seed)
        labellings = {}
        for name, labels in (("category", paths), ("broad category", broadest(paths))):
            codes = label_codes(labels)
            sharing = rows_of_repeated(codes)
            if len(sharing) >= MIN_QUERIES and len(np.unique(codes)) > 1:
                labellings[name] = (_sample(sharing, rng), codes)
        topics = encode_topics(titles)
        lexical = {dim: encode_lexical(titles, dim) for dim in LEXICAL_DIMS}
        return cls(
            topics=topics,
            lexical=lexical,
            query_topics=topics[queries] if stated else encode_topics(other_titles),
            query_lexical={
                dim: lexical[dim][queries] if stated else encode_lexical(other_titles, dim) for dim in LEXICAL_DIMS
            },
            labellings=labellings,
            identity_queries=queries,
            identity_codes=identity_codes,
            stated_groups=stated,
        )

    def measure(self, topic_weight: float, lexical_dim: int) -> dict[str, float]:
        """precision@10 by each labelling and R-precision of the same product, of one candidate."""
        products = self._vectors(self.topics, self.lexical[lexical_dim], topic_weight)
        queries = self._vectors(self.query_topics, self.query_lexical[lexical_dim], topic_weight)
        figures = {}
        for name, (rows, codes) in self.labellings.items():
            matches = ranked_matches(
                inner_products(products[rows], products), codes[rows], codes, own_rows=rows, depth=10
            )
            figures[name] = round(float(matches.mean()), 4)
        identity = identity_metrics(
            inner_products(queries, products),
            self.identity_codes[self.identity_queries],
            self.identity_codes,
            own_rows=self.identity_queries if self.stated_groups else None,
        ).r_precision
        return {**figures, "identity": round(float(identity.mean()), 4)}

    @staticmethod
    def _vectors(topics: F32, lexical: F32, topic_weight: float) -> F32:
        return topics if topic_weight == np.inf else side_by_side(topics, lexical, topic_weight)


def _sample(rows: I64, rng: np.random.Generator) -> I64:
    return np.sort(rng.permutation(rows)[:MAX_QUERIES])
