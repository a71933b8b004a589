"""Measures from which score products are near-duplicates, in each space of a catalogue. Pure.

By the groups that tags state, where enough held-out products have another of their group. Else by copies of held-out
products as another shop would show them: the photo edited, the title rewritten. Of copies, products with the same photo
or the same title are the same product; every other neighbour counts as false, also an offer of the same product that
nothing states. Half of the copies are searched for where their product is not: how precise answers are depends on how
many products have a duplicate at all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from encoders.labels import group_of
from encoders.quality import label_codes, rows_of_repeated
from encoders.splits import Split, splits_of
from index.building.build import SpaceVectors
from lookalike.product_rules import CatalogueProduct
from lookalike.releases.manifest import DuplicatesThreshold
from lookalike.vectors import F32, I64
from pipeline.duplicate_scores import (
    MIN_QUERIES,
    Identity,
    ScoredQueries,
    choose_threshold,
    find_nearest,
    join,
    score_queries,
)

# Each is compared with every vector of the space: 40 s of CPU for a million of 1,024 dimensions.
MAX_QUERIES = 1000
STATED, COPIES = "stated groups", "made copies"


@dataclass(frozen=True, kw_only=True)
class Copies:
    """The vectors (n, dim) of copies of products, and the rows (n,) of these; zeros: the copy says nothing."""

    vectors: F32
    rows: I64


def held_out_rows(products: Sequence[CatalogueProduct], split: Split = Split.CALIBRATE) -> I64:
    """The products of a split. Calibration products decide: no encoder learns from their labels, nor do reports."""
    return np.flatnonzero(splits_of([product.id for product in products]) == split)


def draw(rows: I64, limit: int, seed: int) -> I64:
    """At most `limit` of the rows, ascending."""
    return np.sort(np.random.default_rng(seed).choice(rows, limit, replace=False)) if len(rows) > limit else rows


def groups_of(products: Sequence[CatalogueProduct]) -> list[str]:
    return [group_of(product.tags) for product in products]


def states_groups(groups: Sequence[str], rows: I64) -> bool:
    """Whether enough of the products `rows` have another of their group."""
    return len(np.intersect1d(rows, rows_of_repeated(label_codes(groups)))) >= MIN_QUERIES


def score_groups(vectors: F32, vector_rows: I64, groups: Sequence[str], rows: I64) -> ScoredQueries:
    """Queries by the vectors of the products `rows` whose tags state a group, whether another has it or not.

    vectors (m, dim), of the products `vector_rows`, which rise.
    """
    stated = np.array([bool(group) for group in groups])
    queries = np.intersect1d(rows[stated[rows]], vector_rows)
    identity = Identity([label_codes(groups)])
    nearest = find_nearest(np.asarray(vectors[np.searchsorted(vector_rows, queries)]), vectors, vector_rows)
    return score_queries(nearest, queries, vector_rows, identity, find_own=False)


def score_copies(vectors: F32, vector_rows: I64, copies: Copies, identity: Identity) -> ScoredQueries:
    """Queries by copies: each among all products, and among all but the one that it is of."""
    useful = copies.vectors.any(axis=1)
    rows, nearest = copies.rows[useful], find_nearest(copies.vectors[useful], vectors, vector_rows)
    return join(
        score_queries(nearest, rows, vector_rows, identity, find_own=True),
        score_queries(nearest, rows, vector_rows, identity, find_own=False),
    )


def identity_of_copies(titles: Sequence[str], photos: Sequence[str | bytes]) -> Identity:
    """Products with the same title or the same photo are the same; empty: there is none.

    photos: what is equal for equal photos.
    """
    return Identity([label_codes([" ".join(title.lower().split()) for title in titles]), label_codes(photos)])


def measure_thresholds(
    products: Sequence[CatalogueProduct],
    photos: Sequence[str | bytes],
    spaces: Mapping[int, SpaceVectors],
    copies: Mapping[int, Copies],
    *,
    seed: int,
) -> dict[int, DuplicatesThreshold]:
    """The threshold of each space in which it can be measured.

    photos: of each product, what is equal for equal photos; empty: none. copies: by space.
    """
    groups, held_out = groups_of(products), held_out_rows(products)
    identity = identity_of_copies([product.title for product in products], photos)
    found: dict[int, DuplicatesThreshold] = {}
    for number, space in spaces.items():
        threshold = None
        rows = draw(np.intersect1d(held_out, space.rows), MAX_QUERIES, seed)
        if states_groups(groups, rows):
            threshold = choose_threshold(score_groups(space.vectors, space.rows, groups, rows), STATED)
        if threshold is None and number in copies:
            threshold = choose_threshold(score_copies(space.vectors, space.rows, copies[number], identity), COPIES)
        if threshold is not None:
            found[number] = threshold
    return found
