"""Maximal marginal relevance, compared with a naive implementation of its definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lookalike.v1.index_pb2 import FetchedProduct
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, SpaceVector
from lookalike.vectors import F32, normalised, pack
from server.diversity import diversify, hit_vectors
from server.policy import Route
from server.topology import SpaceInfo

# Few distinct values, exact in float32, so that ties are common and real.
SCORES = st.lists(st.integers(-4, 4).map(lambda n: n / 4), max_size=12)
AXES = np.concatenate([np.eye(3), -np.eye(3)]).astype(np.float32)


def diversify_by_definition(scores: F32, vectors: F32, diversity: float, limit: int) -> list[int]:
    chosen: list[int] = []
    while len(chosen) < min(limit, len(scores)):
        remaining = [i for i in range(len(scores)) if i not in chosen]

        def value(i: int) -> float:
            max_similarity = max((float(vectors[i] @ vectors[other]) for other in chosen), default=0.0)
            return (1 - diversity) * float(scores[i]) - diversity * max_similarity

        chosen.append(max(remaining, key=lambda i: (value(i), -i)))
    return chosen


@settings(max_examples=300, deadline=None)
@given(scores=SCORES, diversity=st.sampled_from([0.0, 0.25, 0.5, 1.0]), limit=st.integers(0, 14), data=st.data())
def test_hits_are_chosen_as_by_the_definition_of_maximal_marginal_relevance(
    scores: list[float], diversity: float, limit: int, data: st.DataObject
) -> None:
    ranked_scores = np.array(sorted(scores, reverse=True), dtype=np.float32)
    vectors = AXES[[data.draw(st.integers(0, 5)) for _ in scores]]
    assert diversify(ranked_scores, vectors, diversity, limit) == diversify_by_definition(
        ranked_scores, vectors, diversity, limit
    )


def test_without_diversity_the_order_is_that_of_the_ranking() -> None:
    scores = np.array([0.9, 0.9, 0.5, 0.1, -0.5], dtype=np.float32)
    vectors = normalised(np.ones((5, 4), dtype=np.float32))
    assert diversify(scores, vectors, 0.0, 4) == [0, 1, 2, 3]


def test_of_several_copies_only_one_comes_before_a_different_product() -> None:
    vectors = normalised(np.array([[1, 0], [1, 0], [1, 0], [0.6, 0.8]], dtype=np.float32))
    assert diversify(vectors @ vectors[0], vectors, 0.6, 2) == [0, 3]


def test_similarity_in_several_spaces_is_the_weighted_mean_and_0_where_a_vector_is_missing() -> None:
    random = np.random.default_rng(0)
    images, texts = (normalised(random.normal(size=(3, dim)).astype(np.float32)) for dim in (4, 6))
    hits = [
        FetchedProduct(vectors=[SpaceVector(space=SPACE_IMAGE, vector=pack(images[i])) for _ in "1" if i != 2]
                + [SpaceVector(space=SPACE_TEXT, vector=pack(texts[i]))])
        for i in range(3)
    ]  # fmt: skip
    spaces = {SPACE_IMAGE: SpaceInfo(4, "", (3,)), SPACE_TEXT: SpaceInfo(6, "", (3,))}
    vectors = hit_vectors(hits, spaces, Route((SPACE_IMAGE, SPACE_TEXT), (0.7, 0.3)))
    assert vectors[0] @ vectors[1] == pytest.approx(0.7 * images[0] @ images[1] + 0.3 * texts[0] @ texts[1], abs=1e-6)
    assert vectors[0] @ vectors[2] == pytest.approx(0.3 * texts[0] @ texts[2], abs=1e-6)
