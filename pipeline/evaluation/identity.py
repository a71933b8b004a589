"""Evaluates whether the same product is found: by the groups that tags state, by made titles and by made photos. Pure.

Queries are held-out products, found among these and the training and calibration products: no encoder was trained on
groups. A made title is that of a held-out product as another shop would write it (`encoders.text.perturbation`), a made
photo its photo as another shop would show it (`encoders.image.perturbation`). Made photos are found among the test
products, of which baselines have vectors, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from encoders.labels import group_of
from encoders.quality import ScoreQueries, identity_metrics, inner_products, label_codes, rows_of_repeated
from encoders.text.perturbation import perturb_titles
from lookalike.v1.types_pb2 import Product
from lookalike.vectors import F32, I64
from pipeline.evaluation.baselines import RANDOM, TFIDF_CHARACTERS, TFIDF_WORDS, random_vectors, tfidf_query_scores
from pipeline.evaluation.held_out import EvaluationData
from pipeline.evaluation.metrics import F64, Average, average_metrics

METRICS = ("R-precision", "nearest is the same", "precision@10")
STATED, MADE, PHOTOS = "stated groups", "made titles", "made photos"
MIN_QUERIES = 30  # With fewer, a kind of queries is left out.

EncodeTitles = Callable[[Sequence[str]], F32]


@dataclass(frozen=True, kw_only=True, eq=False)
class PhotoQueries:
    """Copies of test products' photos by one kind of change, and what they search."""

    change: str
    rows: I64  # The test products that they are of.
    methods: Mapping[str, tuple[F32, F32]]  # Queries (n, dim) and test products (m, dim), by space and baseline.


@dataclass(frozen=True, kw_only=True)
class IdentityQuality:
    """How well queries of one kind find the same product, by space and baseline."""

    kind: str  # STATED, MADE, or PHOTOS and a kind of change: "made photos, crop".
    queries: int
    products: int  # Among which they search, the query itself not counted for stated groups.
    methods: Mapping[str, Sequence[Average]]  # In the order of METRICS.
    r_precision: Mapping[str, F64]  # (queries,) of each query, by method.


def evaluate_identity(
    data: EvaluationData,
    encode_titles: Mapping[str, EncodeTitles],
    photo_queries: Sequence[PhotoQueries] = (),
    *,
    seed: int,
) -> list[IdentityQuality]:
    """Measure by stated groups, by made titles and by made photos, each if there are enough queries.

    encode_titles: how a title becomes a query vector of a space, by the name of the space, or by that and a comma and
    what is said of it; without any there are no made titles.
    """
    samples = (data.test, data.train, data.calibration)
    products = [product for sample in samples for product in sample.products]
    vectors = {space: np.concatenate([sample.vectors[space] for sample in samples]) for space in data.encoders}
    held_out = np.arange(len(data.test.products))
    found = []
    codes = label_codes([group_of(product.tags) for product in products])
    queries = np.intersect1d(held_out, rows_of_repeated(codes))
    titles = [product.title for product in products]
    if len(queries) >= MIN_QUERIES:
        scorers: dict[str, Callable[[], ScoreQueries]] = {
            space: partial(inner_products, rows[queries], rows) for space, rows in vectors.items()
        }
        random = random_vectors(len(products), seed)
        scorers[RANDOM] = partial(inner_products, random[queries], random)
        scorers |= _tfidf([titles[row] for row in queries], titles)
        found.append(_measure(STATED, scorers, codes[queries], codes, own_rows=queries, seed=seed))
    queries = _rows_with_title(data.test.products)
    if encode_titles and len(queries) >= MIN_QUERIES:
        made = perturb_titles([titles[row] for row in queries], seed)
        codes = label_codes([" ".join(title.lower().split()) for title in titles])
        scorers = {
            name: partial(_made_scores, encode, made, vectors[name.partition(",")[0]])
            for name, encode in encode_titles.items()
        }
        random = random_vectors(len(made) + len(titles), seed)
        scorers[RANDOM] = partial(inner_products, random[: len(made)], random[len(made) :])
        scorers |= _tfidf(made, titles)
        found.append(_measure(MADE, scorers, codes[queries], codes, own_rows=None, seed=seed))
    for copies in photo_queries:
        if len(copies.rows) >= MIN_QUERIES:
            codes = label_codes([vector.tobytes() for vector in data.test.vectors["image"]])  # Equal photos.
            scorers = {name: partial(inner_products, *vectors) for name, vectors in copies.methods.items()}
            kind = f"{PHOTOS}, {copies.change}"
            found.append(_measure(kind, scorers, codes[copies.rows], codes, own_rows=None, seed=seed))
    return found


def _rows_with_title(products: Sequence[Product]) -> I64:
    return np.flatnonzero([bool(product.title.strip()) for product in products])


def _made_scores(encode: EncodeTitles, made: Sequence[str], references: F32) -> ScoreQueries:
    return inner_products(encode(made), references)


def _tfidf(queries: Sequence[str], titles: Sequence[str]) -> dict[str, Callable[[], ScoreQueries]]:
    return {
        name: partial(tfidf_query_scores, queries, titles, titles, characters=name == TFIDF_CHARACTERS)
        for name in (TFIDF_WORDS, TFIDF_CHARACTERS)
    }


def _measure(
    kind: str,
    scorers: Mapping[str, Callable[[], ScoreQueries]],
    query_codes: I64,
    codes: I64,
    *,
    own_rows: I64 | None,
    seed: int,
) -> IdentityQuality:
    methods, r_precision = {}, {}
    one_label = np.zeros(len(query_codes), dtype=np.int64)  # Queries are resampled together: groups are small.
    for name, make_scores in scorers.items():
        values = np.stack(identity_metrics(make_scores(), query_codes, codes, own_rows=own_rows))
        r_precision[name] = values[0]
        methods[name] = [average.micro for average in average_metrics(values, one_label, seed)]
    return IdentityQuality(
        kind=kind, queries=len(query_codes), products=len(codes), methods=methods, r_precision=r_precision
    )
