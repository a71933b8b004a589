"""Mapping the columns of a table to a product's fields."""

from __future__ import annotations

from typing import Any

import pytest

from lookalike.errors import BadSettings
from pipeline.column_mapping import category_path, clean_price, parse_mapping


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
def test_a_price_loses_currency_signs_and_separators_and_nothing_else(cell: Any, price: str) -> None:
    assert clean_price(cell) == price


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
    assert category_path(parts) == path


def test_fields_are_joined_from_columns_split_into_paths_and_set_to_constants() -> None:
    mapping = parse_mapping(
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

    assert mapping.product_fields(record) == {
        "currency": "INR",
        "id": "7",
        "title": "Acme Lamp",
        "category": "fashion/men/shoes",
        "price": "1000",
    }
    assert mapping.image_name(record) == "7-2.jpg"
    assert mapping.image_name({"sku": "7"}) == ""
    assert mapping.columns() == {"sku", "brand", "name", "tree", "cost", "view"}


@pytest.mark.parametrize(
    ("record", "tags"),
    [
        ({"gender": "Women", "baseColour": "Navy Blue"}, ["women", "colour:navy-blue"]),
        ({"gender": "", "baseColour": None}, []),
        ({"gender": "Men", "usage": "Casual| New In "}, ["men", "casual", "new-in"]),
        ({"usage": ["Ｆｏｒｍａｌ", "a/b", "", None]}, ["formal", "a-b"]),
        ({"usage": 2012}, ["2012"]),
    ],
)
def test_tags_come_from_columns_that_hold_tags_and_from_templates(record: dict[str, Any], tags: list[str]) -> None:
    mapping = parse_mapping(["tags={gender}, colour:{baseColour} ,usage"])

    assert mapping.columns() == {"id", "gender", "baseColour", "usage"}
    assert mapping.product_fields(record)["tags"] == tags


def test_tags_can_be_set_for_every_product() -> None:
    assert parse_mapping([], ["tags=women|sale"]).product_fields({})["tags"] == "women|sale"


@pytest.mark.parametrize("cell", ["[", "[]", '["a" "b"]', "[" * 50_000])
def test_a_cell_that_is_not_a_json_list_is_taken_as_text(cell: str) -> None:
    assert isinstance(parse_mapping(["category=c"]).product_fields({"c": cell})["category"], str)


def test_a_photo_template_cannot_access_attributes() -> None:
    mapping = parse_mapping([], image="{id.__class__}{id}")

    assert mapping.columns() == {"id", "id.__class__"}
    assert mapping.image_name({"id": "a"}) == ""


@pytest.mark.parametrize(
    "fields", [["title"], ["title="], ["name=x"], ["image=x"], ["price=x", "currency=y", "colour=z"], ["id=a", "shop="]]
)
def test_an_invalid_field_option_is_a_settings_error(fields: list[str]) -> None:
    with pytest.raises(BadSettings):
        parse_mapping(fields)


def test_a_field_that_is_both_mapped_and_set_and_a_negative_depth_are_refused() -> None:
    with pytest.raises(BadSettings, match="both"):
        parse_mapping(["currency=c"], ["currency=INR"])
    with pytest.raises(BadSettings, match="depth"):
        parse_mapping([], category_depth=-1)
