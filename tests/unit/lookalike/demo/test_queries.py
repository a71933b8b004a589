"""The demo's questions fit any catalogue."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.demo.queries import Stop, stops
from lookalike.requests import classify_request, search_request
from lookalike.v1.types_pb2 import SPACE_AUTO, SPACE_IMAGE, SPACE_TEXT, Product

BOTH = ("image", "text")
ALL = ("image", "product", "text")
SHOP = [
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


def kinds(found: list[Stop]) -> list[str]:
    """What each question is made of, and in which space."""
    return [_kind(stop) for stop in found]


def _kind(stop: Stop) -> str:
    if stop.subject is not None:
        return f"classify {'+'.join(field.name for field, _ in classify_request(**stop.subject).ListFields())}"
    request = search_request(**stop.question)
    where = " ".join(f"{each.space}={each.weight:.1f}" for each in request.weights) or request.space
    return f"{'+'.join(field.name for each in request.examples for field, _ in each.ListFields())} {where}"


def test_a_shop_of_all_kinds_is_asked_in_every_way(catalogue: Path) -> None:
    found = stops(SHOP, catalogue, BOTH)
    assert kinds(found) == [
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
    fashion, other, photo, japanese, english, filtered, mixed, both, fused, again = (stop.question for stop in found)
    assert (fashion["product_id"], other["product_id"]) == ("a", "c")
    assert photo["image"] == catalogue / "images/c.jpg"
    assert (japanese["text"], english["text"]) == ("花柄のワンピース", "canvas sneakers")
    assert (filtered["max_price"], filtered["in_stock"], filtered["exclude_same_shop"]) == (3000, True, True)
    assert filtered["max_per_shop"] == 1
    assert [each.product_id for each in mixed["examples"]] == ["a", "b"]
    assert (both["image"], both["text"]) == (catalogue / "images/c.jpg", "steel kettle")
    assert "half by photo, half by words" in found[7].title
    assert (fused["product_id"], fused["explain"]) == ("a", True)
    assert again == fashion


def test_a_shop_with_a_product_space_is_asked_by_it_by_each_alone_and_for_a_category(catalogue: Path) -> None:
    found = stops(SHOP, catalogue, ALL)
    assert kinds(found) == [
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
    titles = [stop.title for stop in found]
    assert titles[0] == "Like “花柄のワンピース” (by photo and words together)"
    assert titles[8] == "Like the photo c.jpg with the words “steel kettle” (as one product)"
    assert titles[9] == "Like “花柄のワンピース”, 70 % by photo and 30 % by words"
    assert titles[10] == "Which category? The photo c.jpg with the words “steel kettle”"
    # What the policy does where there is no product space is said of no question where there is one.
    assert not any("by its" in title for title in titles)


def test_without_photos_a_title_is_classified(catalogue: Path) -> None:
    found = stops([Product(id="x", title="steel kettle")], catalogue, ("product", "text"))
    assert kinds(found)[-2] == "classify text+limit"


def test_the_questions_are_the_same_for_the_same_catalogue(catalogue: Path) -> None:
    assert stops(SHOP, catalogue, BOTH) == stops(SHOP, catalogue, BOTH)


@pytest.mark.parametrize(
    ("products", "spaces", "expected"),
    [
        ([], BOTH, 0),
        (SHOP[:1], BOTH, 8),  # By id in both spaces, a photo, its words, a filter, both, fused, and once more.
        (SHOP[:1], ALL, 10),  # By id in three spaces, and its category, too.
        (SHOP, ("image", "product"), 6),
        ([Product(id="x")], ("text",), 3),
        ([Product(id="x", title="ชุดเดรส")], ("text",), 4),
        ([Product(id="x", image="gone.jpg"), Product(id="y", image="gone.jpg")], ("image",), 4),
        (SHOP, ("text",), 6),
        (SHOP, (), 0),
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
def test_a_poorer_catalogue_gets_fewer_questions_and_all_can_be_sent(
    catalogue: Path, products: list[Product], spaces: tuple[str, ...], expected: int
) -> None:
    found = stops(products, catalogue, spaces)
    assert len(kinds(found)) == expected


def test_titles_are_cut_and_made_printable(catalogue: Path) -> None:
    (stop, *_) = stops([Product(id="x", title="a\x1b" + "b" * 100)], catalogue, ("text",))
    assert "\x1b" not in stop.title
    assert len(stop.title) < 80
