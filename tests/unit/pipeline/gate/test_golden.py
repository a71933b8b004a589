"""Golden queries: how they are read, made and asked."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lookalike.errors import BadSettings
from lookalike.vectors import F32
from pipeline.gate import GateLimits
from pipeline.gate.golden import check_golden, make_golden, read_golden
from pipeline.gate.report import Check
from pipeline.mapped_release import MappedRelease, map_release
from tests.unit.pipeline.gate.releases import IMAGE_DIM, Shop

LIMITS = GateLimits()


@pytest.fixture(scope="module")
def release(shop: Shop, live: str) -> MappedRelease:
    return map_release(shop.location, live)


def asked(release: MappedRelease, folder: Path, *lines: Any, **options: Any) -> Check:
    path = folder / "golden.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines), encoding="utf-8")
    return check_golden(release, path, LIMITS, **options)


def nearest_ids(release: MappedRelease, product_id: str, space: str, k: int = 3) -> list[str]:
    at = release.find(product_id)
    assert at is not None
    (found,) = release.nearest_to(space, [at], k)
    return [release.id(each) for each in found.products]


def test_what_a_release_finds_is_found_by_itself(release: MappedRelease, tmp_path: Path) -> None:
    check = asked(release, tmp_path, *make_golden(release, 40, seed=0))
    assert check.passed
    assert check.figures["share"] == 1.0
    assert check.figures["queries"] == 40


def test_golden_queries_are_of_every_category_and_kind(release: MappedRelease) -> None:
    queries = [json.loads(line) for line in make_golden(release, 24, seed=0)]
    kinds = Counter((*query["query"], query["space"]) for query in queries)
    assert kinds == {("product", "image"): 6, ("product", "text"): 6, ("product", "product"): 6, ("text", "text"): 6}
    products = [release.find(query["query"]["product"]) for query in queries if "product" in query["query"]]
    assert len({release.category(at) for at in products if at is not None}) >= 9  # 18 of the 24 products, of 12.
    assert all(len(query["find"]) == 3 for query in queries)


def test_every_miss_is_named_and_few_enough_are_let_pass(release: MappedRelease, tmp_path: Path) -> None:
    find = nearest_ids(release, "p1", "image")
    far = {"query": {"product": "p1"}, "find": ["p2"], "k": 1}
    check = asked(release, tmp_path, {"query": {"product": "p1"}, "find": find}, far)
    assert check.figures["misses"] == ["golden.jsonl:2 (product p1, image): not found: p2"]
    assert not check.passed  # 3 of 4.
    assert "golden queries find 3 of 4 (75.0%, less than 90%): golden.jsonl:2" in check.sentence


def test_what_must_not_be_found_refuses_by_itself(release: MappedRelease, tmp_path: Path) -> None:
    (first, *_) = nearest_ids(release, "p1", "text")
    check = asked(release, tmp_path, {"query": {"product": "p1"}, "space": "text", "not_find": [first]})
    assert check.sentence == f"golden.jsonl:1 (product p1, text): found {first}"


def test_products_that_are_gone_are_left_out_until_too_many_are(release: MappedRelease, tmp_path: Path) -> None:
    find = nearest_ids(release, "p1", "image")
    assert asked(release, tmp_path, {"query": {"product": "p1"}, "find": [*find, "gone"]}).figures["share"] == 1.0
    check = asked(release, tmp_path, {"query": {"product": "gone"}, "find": find})
    assert check.sentence == (
        "3 of 3 products that golden queries must find are gone from the catalogue, more than 50%: make them anew"
    )


def test_words_are_encoded_by_the_release_s_own_encoders(release: MappedRelease, tmp_path: Path) -> None:
    at = release.find("p1")
    assert at is not None
    title = release.product(at).title
    for space in ("text", "product"):
        line = {"query": {"text": title}, "space": space, "k": 100, "find": ["p1"]}
        assert asked(release, tmp_path, line).passed
    check = asked(release, tmp_path, {"query": {"text": title}, "space": "image", "find": ["p1"]})
    assert "words have no image vector" in check.sentence


def test_a_photo_is_encoded_where_a_model_server_is_at_hand_and_is_its_product_s_vector_elsewhere(
    release: MappedRelease, tmp_path: Path
) -> None:
    line = {"query": {"photo": "a.jpg", "product": "p1"}, "k": 1, "find": nearest_ids(release, "p1", "image", 1)}
    assert asked(release, tmp_path, line).passed
    at = release.find("p2")
    assert at is not None
    other = release.vector(at, "image")
    photos: list[Path] = []

    def encode(photo: Path) -> F32:
        photos.append(photo)
        assert other is not None
        return other

    assert asked(release, tmp_path, {**line, "find": ["p2"]}, encode_photo=encode).passed
    assert photos == [tmp_path / "a.jpg"]
    without = asked(release, tmp_path, {"query": {"photo": "a.jpg"}, "find": ["p1"]})
    assert "a photo without a product, and no model server to encode it" in without.sentence


def test_a_vector_of_another_encoder_or_dimension_refuses(release: MappedRelease, tmp_path: Path) -> None:
    vector = np.eye(IMAGE_DIM)[0].tolist()
    assert asked(release, tmp_path, {"query": {"vector": vector, "encoder": "mobilenet-1"}, "not_find": ["?"]}).passed
    for query in ({"vector": vector, "encoder": "mobilenet-2"}, {"vector": vector[1:]}):
        assert "its vector is" in asked(release, tmp_path, {"query": query, "find": ["p1"]}).sentence


def test_comments_and_empty_lines_are_no_queries(release: MappedRelease, tmp_path: Path) -> None:
    line = {"query": {"product": "p1"}, "find": nearest_ids(release, "p1", "image"), "note": "why"}
    assert asked(release, tmp_path, "# made by hand", "", line).figures["queries"] == 1


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "Expecting property name"),
        ('{"find": ["p1"]}', "'query'"),
        ('{"query": {}, "find": ["p1"]}', "needs one of product, text, photo, vector"),
        ('{"query": {"product": "p1"}}', "of which one has an id"),
        ('{"query": {"product": "p1"}, "find": [1]}', "lists of ids"),
        ('{"query": {"product": "p1"}, "find": ["p2"], "space": "taste"}', "is not one of image, text, product"),
        ('{"query": {"product": "p1"}, "find": ["p2"], "k": 0}', "not in 1..1000"),
        ('{"query": {"product": "p1"}, "find": ["p2"], "found": []}', "'found' is not one of"),
        ("# only a comment", "has no golden query"),
    ],
)
def test_a_line_that_is_no_golden_query_is_named(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "golden.jsonl"
    path.write_text(f"# comment\n{line}\n", encoding="utf-8")
    with pytest.raises(BadSettings, match=r"golden\.jsonl") as raised:
        read_golden(path)
    assert reason in str(raised.value)
