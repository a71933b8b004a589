"""The demo's queries, for catalogues with and without photos, titles and vector spaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.demo.queries import DemoQuery, demo_queries
from lookalike.requests import classify_request, search_request
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_TEXT, Product

BOTH = ("image", "text")
ALL = ("image", "product", "text")
PRODUCTS = [
    Product(
        id="a", title="花柄のワンピース", category="fashion/dresses", price=3000, currency="JPY", image="images/a.jpg"
    ),
    Product(
        id="b", title="canvas sneakers", category="fashion/shoes", price=5000, currency="JPY", image="images/b.jpg"
    ),
    Product(id="c", title="steel kettle", category="home/kitchen", price=2000, currency="JPY", image="images/c.jpg"),
    Product(id="d", title="抹茶クッキー", category="food", price=900, currency="JPY"),
]


@pytest.fixture
def catalogue(tmp_path: Path) -> Path:
    (tmp_path / "images").mkdir()
    for name in "abc":
        (tmp_path / "images" / f"{name}.jpg").write_bytes(b"a photo of " + name.encode())
    return tmp_path


def kinds(queries: list[DemoQuery]) -> list[str]:
    """Which fields each request has, and which space it names."""
    return [_kind(query) for query in queries]


def _kind(query: DemoQuery) -> str:
    if query.classify is not None:
        return f"classify {'+'.join(field.name for field, _ in classify_request(**query.classify).ListFields())}"
    request = search_request(**query.search)
    space = " ".join(f"{each.space}={each.weight:.1f}" for each in request.weights) or request.space
    return f"{'+'.join(field.name for each in request.examples for field, _ in each.ListFields())} {space}"


def test_a_varied_catalogue_gets_a_query_of_every_kind(catalogue: Path) -> None:
    queries = demo_queries(PRODUCTS, catalogue, BOTH)
    assert kinds(queries) == [
        f"product_id {SPACE_AUTO}",
        f"product_id {SPACE_AUTO}",
        f"image {SPACE_AUTO}",
        f"text {SPACE_AUTO}",
        f"text {SPACE_AUTO}",
        f"product_id {SPACE_TEXT}",
        f"product_id+weight+product_id+weight {SPACE_IMAGE}",
        f"image+text {SPACE_AUTO}",
        f"product_id {SPACE_IMAGE}=0.7 {SPACE_TEXT}=0.3",
        f"product_id {SPACE_AUTO}",
    ]
    fashion, other, photo, japanese, english, filtered, mixed, both, fused, again = (query.search for query in queries)
    assert (fashion["product_id"], other["product_id"]) == ("a", "c")
    assert photo["image"] == catalogue / "images/c.jpg"
    assert (japanese["text"], english["text"]) == ("花柄のワンピース", "canvas sneakers")
    assert (filtered["max_price"], filtered["in_stock"], filtered["exclude_same_shop"]) == (3000, True, True)
    assert filtered["max_per_shop"] == 1
    assert [each.product_id for each in mixed["examples"]] == ["a", "b"]
    assert (both["image"], both["text"]) == (catalogue / "images/c.jpg", "steel kettle")
    assert "half by photo, half by words" in queries[7].heading
    assert (fused["product_id"], fused["explain"]) == ("a", True)
    assert again == fashion


def test_with_a_product_space_there_are_queries_in_each_space_and_a_classification(catalogue: Path) -> None:
    queries = demo_queries(PRODUCTS, catalogue, ALL)
    assert kinds(queries) == [
        f"product_id {SPACE_AUTO}",
        f"product_id {SPACE_IMAGE}",
        f"product_id {SPACE_TEXT}",
        f"image {SPACE_AUTO}",
        f"text {SPACE_AUTO}",
        f"text {SPACE_AUTO}",
        f"product_id {SPACE_TEXT}",
        f"product_id+weight+product_id+weight {SPACE_IMAGE}",
        f"image+text {SPACE_AUTO}",
        f"product_id {SPACE_IMAGE}=0.7 {SPACE_TEXT}=0.3",
        "classify image+text+limit",
        f"product_id {SPACE_AUTO}",
    ]
    headings = [query.heading for query in queries]
    assert headings[0] == "Like “花柄のワンピース” (by photo and words together)"
    assert headings[8] == "Like the photo c.jpg with the words “steel kettle” (as one product)"
    assert headings[9] == "Like “花柄のワンピース”, 70 % by photo and 30 % by words"
    assert headings[10] == "Which category? The photo c.jpg with the words “steel kettle”"
    # With a product space, no heading says what the policy does without one.
    assert not any("by its" in heading for heading in headings)


def test_without_photos_a_title_is_classified(catalogue: Path) -> None:
    queries = demo_queries([Product(id="x", title="steel kettle")], catalogue, ("product", "text"))
    assert kinds(queries)[-2] == "classify text+limit"


def test_the_same_catalogue_gets_the_same_queries(catalogue: Path) -> None:
    assert demo_queries(PRODUCTS, catalogue, BOTH) == demo_queries(PRODUCTS, catalogue, BOTH)


@pytest.mark.parametrize(
    ("products", "spaces", "expected"),
    [
        ([], BOTH, 0),
        (PRODUCTS[:1], BOTH, 8),  # By id in both spaces, a photo, its words, a filter, both, fused, and once more.
        (PRODUCTS[:1], ALL, 10),  # By id in three spaces, and its category, too.
        (PRODUCTS, ("image", "product"), 6),
        ([Product(id="x")], ("text",), 3),
        ([Product(id="x", title="ชุดเดรส")], ("text",), 4),
        ([Product(id="x", image="gone.jpg"), Product(id="y", image="gone.jpg")], ("image",), 4),
        (PRODUCTS, ("text",), 6),
        (PRODUCTS, (), 0),
    ],
    ids=[
        "no products",
        "one",
        "one in all spaces",
        "no words indexed",
        "one without words",
        "one in Thai",
        "photos only, gone",
        "no photos indexed",
        "no space",
    ],
)
def test_a_catalogue_with_less_gets_fewer_queries_and_all_can_be_sent(
    catalogue: Path, products: list[Product], spaces: tuple[str, ...], expected: int
) -> None:
    queries = demo_queries(products, catalogue, spaces)
    assert len(kinds(queries)) == expected


def test_long_titles_are_cut_and_control_characters_are_removed(catalogue: Path) -> None:
    (query, *_) = demo_queries([Product(id="x", title="a\x1b" + "b" * 100)], catalogue, ("text",))
    assert "\x1b" not in query.heading
    assert len(query.heading) < 80
