"""Compares each space with what it should beat, on the same queries. Pure: per-query results in, differences out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.evaluation.baselines import RANDOM, TFIDF_CHARACTERS, TFIDF_WORDS, UNTRAINED
from pipeline.evaluation.identity import IdentityQuality
from pipeline.evaluation.metrics import F64, I64, Average, average_metrics
from pipeline.evaluation.retrieval import RetrievalEvaluation

# What a query of each kind is compared with: baselines that see the same of a product, and the product space with
# everything.
_OF_PHOTOS, _OF_TITLES = (UNTRAINED, RANDOM), (TFIDF_WORDS, TFIDF_CHARACTERS, RANDOM)
RIVALS = {
    "image": _OF_PHOTOS,
    "text": _OF_TITLES,
    "product": ("image", "text", UNTRAINED, *_OF_TITLES),
    "product, photo alone": ("image", *_OF_PHOTOS),
    "product, title alone": ("text", *_OF_TITLES),
}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """A space and a rival by one measure, a mean over the same queries."""

    measure: str
    by: str  # The labels, or the kind of queries.
    space: str
    rival: str
    queries: int
    value: float
    rival_value: float
    difference: Average  # The space minus the rival, paired by query.

    @property
    def is_better(self) -> bool:
        return self.difference.low > 0

    @property
    def is_worse(self) -> bool:
        return self.difference.high < 0


def compare(retrieval: RetrievalEvaluation, identity: Sequence[IdentityQuality], *, seed: int) -> list[Comparison]:
    """All comparisons: precision@10 by each labelling, then R-precision of the same product by each kind of queries."""
    return [*_by_label(retrieval, seed), *_by_identity(identity, seed)]


def _by_label(retrieval: RetrievalEvaluation, seed: int) -> Iterator[Comparison]:
    columns = {**retrieval.spaces, **retrieval.partial_queries, **retrieval.baselines}
    for labelling in retrieval.labellings:
        codes = labelling.codes[labelling.is_query]
        values = {name: column.precision[labelling.title][labelling.is_query] for name, column in columns.items()}
        yield from _pairs("precision@10", labelling.title, values, codes, seed)


def _by_identity(identity: Sequence[IdentityQuality], seed: int) -> Iterator[Comparison]:
    for quality in identity:
        one_label = np.zeros(quality.queries, dtype=np.int64)  # As its averages are resampled.
        yield from _pairs("R-precision", quality.kind, dict(quality.r_precision), one_label, seed)


def _pairs(measure: str, by: str, values: dict[str, F64], codes: I64, seed: int) -> Iterator[Comparison]:
    for space, rivals in RIVALS.items():
        present = [rival for rival in rivals if rival in values] if space in values else []
        if not present:
            continue
        differences = np.stack([values[space] - values[rival] for rival in present])
        for rival, average in zip(present, average_metrics(differences, codes, seed), strict=True):
            yield Comparison(
                measure=measure,
                by=by,
                space=space,
                rival=rival,
                queries=len(codes),
                value=float(values[space].mean()),
                rival_value=float(values[rival].mean()),
                difference=average.micro,
            )
