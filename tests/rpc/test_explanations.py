"""What the parts of a query contributed to the scores of hits, through a real gateway."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lookalike.errors import LookalikeError, Overloaded, Unavailable
from lookalike.v1.search_pb2 import Contribution, Example, FindDuplicatesRequest, Hit, SearchRequest, SearchResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from lookalike.vectors import F32, pack
from tests.rpc.gateways import VECTORS, ScriptedSystem, encode_words, fuse, scripted_system
from tests.rpc.test_spaces import ALL, image_of, photo, product, text_of, unit, weights, words

Key = tuple[int, str, str]  # Of a contribution: example, side, word.


def cosine(hit: Hit, space: Space.ValueType, vector: F32 | None) -> float:
    if vector is None or (hit.product.id, space) not in VECTORS:
        return 0.0
    return float(VECTORS[hit.product.id, space] @ vector)


def by_part(hit: Hit) -> dict[Key, float]:
    return {(each.example, each.side, each.word): each.score for each in hit.contributions}


async def explained(system: ScriptedSystem, examples: Sequence[Example], **fields: object) -> SearchResponse:
    return await system.search.Search(SearchRequest(examples=examples, explain=True, **fields))  # type: ignore[arg-type]


def assert_left_out(
    response: SearchResponse, space: Space.ValueType, query: F32, without: dict[Key, F32 | None]
) -> None:
    """Each hit has these parts, whose contributions are its cosine with the query less that with the query without."""
    assert response.hits
    assert not response.provenance.degraded
    for hit in response.hits:
        expected = {key: cosine(hit, space, query) - cosine(hit, space, other) for key, other in without.items()}
        assert by_part(hit) == pytest.approx(expected, abs=1e-5)


async def test_a_word_contributes_what_the_hit_scores_less_without_it() -> None:
    async with scripted_system() as system:
        response = await explained(system, [Example(text="p03 red p08 p09")], space=SPACE_TEXT)
    query, without_red = encode_words(["p03", "p08", "p09"]), encode_words(["p03", "p08", "p09"])
    left_out: dict[Key, F32 | None] = {
        (0, "", "p03"): encode_words(["p08", "p09"]),
        (0, "", "red"): without_red,
        (0, "", "p08"): encode_words(["p03", "p09"]),
        (0, "", "p09"): encode_words(["p03", "p08"]),
    }
    assert_left_out(response, SPACE_TEXT, query, left_out)
    first = response.hits[0].contributions
    assert first[0].word == response.hits[0].product.id
    assert first[-1] == Contribution(word="red")


async def test_contributions_come_by_falling_magnitude() -> None:
    async with scripted_system() as system:
        response = await explained(system, [Example(text="p03 p08 p09")], space=SPACE_TEXT, limit=20)
    scores = [[each.score for each in hit.contributions] for hit in response.hits]
    assert scores == [sorted(each, key=abs, reverse=True) for each in scores]
    assert min(map(min, scores)) < 0


async def test_without_its_only_known_word_a_text_contributes_nothing() -> None:
    async with scripted_system() as system:
        response = await explained(system, [Example(text="p03 unknown"), words(8, -0.5)], space=SPACE_TEXT)
    query = unit(text_of(3) - 0.5 * text_of(8))
    left_out: dict[Key, F32 | None] = {
        (0, "", ""): -text_of(8),
        (0, "", "p03"): -text_of(8),
        (0, "", "unknown"): query,
        (1, "", ""): text_of(3),  # Its only word is no part of its own.
    }
    assert_left_out(response, SPACE_TEXT, query, left_out)


async def test_the_whole_score_is_of_the_only_word_of_the_only_example() -> None:
    async with scripted_system() as system:
        response = await explained(system, [words(8)], space=SPACE_TEXT)
    assert_left_out(response, SPACE_TEXT, text_of(8), {(0, "", "p08"): None})


async def test_in_the_product_space_a_photo_and_the_words_of_a_text_contribute_to_what_they_are_fused_to() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await explained(system, [photo(7), Example(text="p08 p09")])
        assert system.model_server.photos == [7]  # Encoded once.
    left_out: dict[Key, F32 | None] = {
        (0, "", ""): fuse(None, encode_words(["p08", "p09"])),
        (1, "", ""): fuse(image_of(7), None),
        (1, "", "p08"): fuse(image_of(7), text_of(9)),
        (1, "", "p09"): fuse(image_of(7), text_of(8)),
    }
    assert_left_out(response, SPACE_PRODUCT, fuse(image_of(7), encode_words(["p08", "p09"])), left_out)


async def test_in_the_product_space_the_photo_and_the_words_of_an_example_product_contribute() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await explained(system, [product(7)], space=SPACE_PRODUCT)
    left_out: dict[Key, F32 | None] = {
        (0, "photo", ""): fuse(None, text_of(7)),
        (0, "words", ""): fuse(image_of(7), None),
    }
    assert_left_out(response, SPACE_PRODUCT, VECTORS["p07", SPACE_PRODUCT], left_out)


async def test_a_product_that_has_only_words_has_no_sides_to_compare() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await explained(system, [product(19)], space=SPACE_PRODUCT)
    assert_left_out(response, SPACE_PRODUCT, VECTORS["p19", SPACE_PRODUCT], {})


async def test_in_one_space_a_single_photo_product_or_vector_is_the_whole_query_and_nothing_is_fetched() -> None:
    vector = Example(vector=pack(VECTORS["p03", SPACE_TEXT]))
    async with scripted_system(spaces=ALL) as system:
        for example, space in ((photo(7), SPACE_IMAGE), (vector, SPACE_TEXT)):
            response = await explained(system, [example], space=space)
            assert all(not hit.contributions for hit in response.hits)
        assert not any(shard.fetches for shard in system.shards)
        response = await explained(system, [product(7)], space=SPACE_IMAGE)
        assert all(not hit.contributions for hit in response.hits)


async def test_in_a_late_fusion_a_contribution_is_the_weighted_mean_over_the_spaces() -> None:
    async with scripted_system(spaces=ALL) as system:
        response = await explained(
            system, [product(7), Example(text="p08 p09")], weights=weights(image=1, text=2, product=1), limit=20
        )
    both = encode_words(["p08", "p09"])

    def score(hit: Hit, image: F32 | None, text: F32 | None, fused: F32 | None) -> float:
        return (
            cosine(hit, SPACE_IMAGE, image) + 2 * cosine(hit, SPACE_TEXT, text) + cosine(hit, SPACE_PRODUCT, fused)
        ) / 4

    stored = VECTORS["p07", SPACE_PRODUCT]
    assert "p19" in {hit.product.id for hit in response.hits}  # It has no photo: its cosine there is 0.
    for hit in response.hits:
        expected = {
            (0, "", ""): score(hit, None, both, fuse(None, both)),
            (1, "", ""): score(hit, image_of(7), text_of(7), stored),
            (0, "photo", ""): score(
                hit, None, unit(text_of(7) + both), unit(fuse(None, text_of(7)) + fuse(None, both))
            ),
            (0, "words", ""): score(hit, image_of(7), both, unit(fuse(image_of(7), None) + fuse(None, both))),
            (1, "", "p08"): score(
                hit, image_of(7), unit(text_of(7) + text_of(9)), unit(stored + fuse(None, text_of(9)))
            ),
            (1, "", "p09"): score(
                hit, image_of(7), unit(text_of(7) + text_of(8)), unit(stored + fuse(None, text_of(8)))
            ),
        }
        assert by_part(hit) == pytest.approx({key: hit.score - other for key, other in expected.items()}, abs=1e-5)


async def test_examples_that_cancel_each_other_once_another_is_left_out_score_nothing() -> None:
    vector, opposite = (Example(vector=pack(sign * text_of(3))) for sign in (np.float32(1), np.float32(-1)))
    async with scripted_system() as system:
        response = await explained(system, [vector, opposite, words(8)], space=SPACE_TEXT)
    for hit in response.hits:
        assert by_part(hit)[2, "", ""] == pytest.approx(hit.score, abs=1e-6)


async def test_the_first_hundred_hits_are_explained_with_their_32_greatest_contributions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("server.explanation.MAX_EXPLAINED_HITS", 3)
    texts = [
        Example(text=" ".join(f"p{i:02}" for i in range(20))),
        Example(text=" ".join(f"p{i:02}" for i in range(20))),
    ]
    async with scripted_system() as system:
        response = await explained(system, texts, space=SPACE_TEXT, limit=5)
    assert [len(hit.contributions) for hit in response.hits] == [32, 32, 32, 0, 0]


async def test_without_explain_the_text_encoder_is_not_asked_to_leave_out_words() -> None:
    async with scripted_system() as system:
        system.text_encoder.leave_out_error = Unavailable("asked")
        response = await system.search.Search(SearchRequest(examples=[Example(text="p03 p08")], space=SPACE_TEXT))
    assert all(not hit.contributions for hit in response.hits)
    assert not response.provenance.degraded


async def test_an_explained_answer_is_cached_with_its_contributions_and_shared_with_the_equivalent_call() -> None:
    example = photo(3)
    async with scripted_system() as system:
        first = await explained(system, [example, photo(8)], space=SPACE_IMAGE, limit=100)
        again = await explained(system, [example, photo(8)], space=SPACE_IMAGE, limit=100)
        one = await explained(system, [example], space=SPACE_IMAGE, limit=100, min_score=0.95)
        same = await system.search.FindDuplicates(
            FindDuplicatesRequest(example=example, space=SPACE_IMAGE, min_score=0.95, explain=True)
        )
        plain = await system.search.Search(SearchRequest(examples=[example, photo(8)], space=SPACE_IMAGE, limit=100))
    assert again.provenance.cached
    assert same.provenance.cached
    assert again.hits == first.hits
    assert same.hits == one.hits
    assert all(hit.contributions for hit in first.hits)
    assert not plain.provenance.cached


async def test_an_answer_that_holds_words_of_a_text_is_not_kept() -> None:
    async with scripted_system() as system:
        first = await explained(system, [Example(text="p03 p08")], space=SPACE_TEXT)
        again = await explained(system, [Example(text="p03 p08")], space=SPACE_TEXT)
        request = SearchRequest(examples=[Example(text="p03 p08")], space=SPACE_TEXT)
        plain = [await system.search.Search(request) for _ in range(2)]
    assert {each.word for hit in first.hits for each in hit.contributions} == {"p03", "p08"}
    assert again.hits == first.hits
    assert not again.provenance.cached
    assert plain[1].provenance.cached


@pytest.mark.parametrize("error", [Unavailable("down"), Overloaded("full")])
async def test_a_text_encoder_that_fails_meanwhile_costs_the_explanation_and_the_answer_says_so(
    error: LookalikeError,
) -> None:
    async with scripted_system() as system:
        system.text_encoder.leave_out_error = error
        response = await explained(system, [Example(text="p03 p08")], space=SPACE_TEXT)
        system.text_encoder.leave_out_error = None
        recovered = await explained(system, [Example(text="p03 p08")], space=SPACE_TEXT)
    (reason,) = response.provenance.degraded
    assert reason.startswith("not explained: text encoder")
    assert [hit.product.id for hit in response.hits] == [hit.product.id for hit in recovered.hits]
    assert all(hit.scores and not hit.contributions for hit in response.hits)
    assert not recovered.provenance.cached
    assert all(hit.contributions for hit in recovered.hits)


async def test_a_text_encoder_that_hangs_meanwhile_leaves_time_to_answer_without_an_explanation() -> None:
    async with scripted_system() as system:
        system.text_encoder.leave_out_hangs = True
        request = SearchRequest(examples=[Example(text="p03 p08")], space=SPACE_TEXT, explain=True)
        response = await system.search.Search(request, timeout=3)
    assert len(response.hits) == 10
    assert [reason.split(":")[0] for reason in response.provenance.degraded] == ["not explained"]


async def test_a_product_encoder_that_is_of_another_version_costs_the_explanation_of_an_example_product() -> None:
    async with scripted_system(spaces=ALL) as system:
        system.product_encoder.fingerprint = "encoder-other"
        response = await explained(system, [product(7)], space=SPACE_PRODUCT)
    assert response.hits
    assert list(response.provenance.degraded) == [
        "not explained: the encoder is encoder-other, the index was built with encoder-3"
    ]


async def test_vectors_of_hits_that_cannot_be_fetched_cost_the_explanation_and_the_answer_says_so() -> None:
    async with scripted_system() as system:
        system.shards[1].fetch_error = Unavailable("broken")
        response = await explained(system, [Example(text="p03 p08")], space=SPACE_TEXT)
    (reason,) = response.provenance.degraded
    assert reason.startswith("not explained: ")
    assert response.hits
    assert response.provenance.coverage == 1


async def test_with_diversity_the_hits_that_are_returned_are_explained() -> None:
    async with scripted_system() as system:
        response = await explained(system, [Example(text="p03 p08")], space=SPACE_TEXT, diversity=0.5, limit=3)
    query = encode_words(["p03", "p08"])
    assert_left_out(response, SPACE_TEXT, query, {(0, "", "p03"): text_of(8), (0, "", "p08"): text_of(3)})
