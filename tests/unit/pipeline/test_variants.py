"""Merging the rows of one product's variants."""

from __future__ import annotations

from typing import Any

import pytest

from lookalike.product_rules import MAX_TAGS, CatalogueProduct
from pipeline.variants import merge_variants, with_inherited_cells


def product(**fields: Any) -> CatalogueProduct:
    return CatalogueProduct(**{"id": "a", "category": "c", **fields})


def merged(earlier: dict[str, Any], later: dict[str, Any]) -> CatalogueProduct:
    first, second = product(**earlier), product(id="b", **later)
    return merge_variants(first, second, with_photos=(bool(first.image), bool(second.image)))


@pytest.mark.parametrize(
    ("earlier", "later", "winner"),
    [("", "", "a"), ("1.png", "", "a"), ("", "2.png", "b"), ("1.png", "2.png", "a")],
)
def test_the_first_row_with_a_photo_wins(earlier: str, later: str, winner: str) -> None:
    both = merged({"image": earlier, "title": "A"}, {"image": later, "title": "B"})

    assert (both.id, both.title) == (winner, winner.upper())
    assert both.image == (earlier or later)


def test_what_the_winner_lacks_comes_from_the_other() -> None:
    both = merged({"title": "A", "description": "soft"}, {"image": "2.png"})

    assert (both.id, both.title, both.description) == ("b", "A", "soft")


@pytest.mark.parametrize(
    ("earlier", "later", "price"),
    [(30.0, 20.0, 20.0), (None, 20.0, 20.0), (0.0, 5.0, 0.0), (None, None, None)],
)
def test_the_lowest_stated_price_counts(earlier: float | None, later: float | None, price: float | None) -> None:
    assert merged({"price": earlier}, {"price": later}).price == price


def test_a_price_in_another_currency_is_not_compared() -> None:
    assert merged({"price": 30.0, "currency": "USD"}, {"price": 20.0, "currency": "JPY"}).price == 30


def test_a_product_is_in_stock_if_any_variant_is() -> None:
    assert merged({"in_stock": False}, {"in_stock": True}).in_stock
    assert not merged({"in_stock": False}, {"in_stock": False}).in_stock


def test_tags_are_joined_up_to_their_limit() -> None:
    assert merged({"tags": ("b", "c")}, {"tags": ("a", "b")}).tags == ("a", "b", "c")
    many = tuple(f"t{number:02}" for number in range(MAX_TAGS))
    assert merged({"tags": ("z",)}, {"tags": many}).tags == (*many[:-1], "z")


def test_a_product_expires_with_its_last_variant() -> None:
    assert merged({"expires_at": 5}, {"expires_at": 7}).expires_at == 7
    assert merged({"expires_at": 5}, {}).expires_at == 0


def test_empty_cells_are_inherited_from_the_first_row() -> None:
    first = {"title": "Tee", "status": "draft", "price": "5"}

    assert with_inherited_cells({"title": "", "status": None, "price": "0"}, first) == {
        "title": "Tee",
        "status": "draft",
        "price": "0",
    }
