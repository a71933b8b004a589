"""Mapping foreign columns to a product's fields."""

from __future__ import annotations

from typing import Any

import pytest

from lookalike.errors import BadSettings
from pipeline.column_mapping import category, mapping, number


@pytest.mark.parametrize(
    ("cell", "price"),
    [
        ("1,299.00", "1299.00"),
        ("₹ 899", "899"),
        ("Rs. 1,499", "1499"),
        ("¥2,980 (税込)", "2980"),
        ("-5", "-5"),
        ("free", "free"),
        ("", ""),
        (None, ""),
        (12.5, "12.5"),
        ("10-20", "10-20"),
        ("1,29,900.00", "129900.00"),
        ("1.299,00", "1.299,00"),
        ("12,50", "12,50"),
        ("0.5", "0.5"),
    ],
)
def test_a_price_loses_its_decoration_and_nothing_else(cell: Any, price: str) -> None:
    assert number(cell) == price


@pytest.mark.parametrize(
    ("parts", "path"),
    [
        (["Apparel", "Topwear", "Tshirts"], "apparel/topwear/tshirts"),
        (["Home  Decor ", "Lamps/Lights"], "home-decor/lamps-lights"),
        (["", "ＳＨＯＥＳ"], "shoes"),
        ([" / "], ""),
    ],
)
def test_categories_become_paths_of_lower_case_names(parts: list[str], path: str) -> None:
    assert category(parts) == path


def test_columns_are_joined_split_and_set() -> None:
    rules = mapping(
        ["id=sku", "title=brand,name", "category=tree", "price=cost"],
        ["currency=INR"],
        category_separator=" >> ",
        category_prefix="Fashion",
        category_depth=3,
        image="{sku}-{view}.jpg",
    )
    record = {
        "sku": "7",
        "brand": "Acme",
        "name": "Lamp",
        "tree": '["Men >> Shoes >> Boots"]',
        "cost": "₹1,000",
        "view": 2,
    }

    assert rules.product(record) == {
        "currency": "INR",
        "id": "7",
        "title": "Acme Lamp",
        "category": "fashion/men/shoes",
        "price": "1000",
    }
    assert rules.image_name(record) == "7-2.jpg"
    assert rules.image_name({"sku": "7"}) == ""
    assert rules.columns() == {"sku", "brand", "name", "tree", "cost", "view"}


@pytest.mark.parametrize(
    ("record", "made"),
    [
        ({"gender": "Women", "baseColour": "Navy Blue"}, ["women", "colour:navy-blue"]),
        ({"gender": "", "baseColour": None}, []),
        ({"gender": "Men", "usage": "Casual| New In "}, ["men", "casual", "new-in"]),
        ({"usage": ["Ｆｏｒｍａｌ", "a/b", "", None]}, ["formal", "a-b"]),
        ({"usage": 2012}, ["2012"]),
    ],
)
def test_tags_are_made_of_columns_that_hold_them_and_of_columns_in_braces(
    record: dict[str, Any], made: list[str]
) -> None:
    rules = mapping(["tags={gender}, colour:{baseColour} ,usage"])

    assert rules.columns() == {"id", "gender", "baseColour", "usage"}
    assert rules.product(record)["tags"] == made


def test_tags_can_be_set_for_all() -> None:
    assert mapping([], ["tags=women|sale"]).product({})["tags"] == "women|sale"


@pytest.mark.parametrize("cell", ["[", "[]", '["a" "b"]', "[" * 50_000])
def test_a_list_that_is_none_is_taken_as_it_is(cell: str) -> None:
    assert isinstance(mapping(["category=c"]).product({"c": cell})["category"], str)


def test_the_template_of_a_photo_is_no_program() -> None:
    rules = mapping([], image="{id.__class__}{id}")

    assert rules.columns() == {"id", "id.__class__"}
    assert rules.image_name({"id": "a"}) == ""


@pytest.mark.parametrize(
    "fields", [["title"], ["title="], ["name=x"], ["image=x"], ["price=x", "currency=y", "colour=z"], ["id=a", "shop="]]
)
def test_a_field_that_is_none_is_the_operators_to_mend(fields: list[str]) -> None:
    with pytest.raises(BadSettings):
        mapping(fields)


def test_a_field_is_mapped_or_set_not_both() -> None:
    with pytest.raises(BadSettings, match="both"):
        mapping(["currency=c"], ["currency=INR"])
    with pytest.raises(BadSettings, match="depth"):
        mapping([], category_depth=-1)
