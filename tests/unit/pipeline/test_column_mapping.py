"""Mapping the columns of a table to a product's fields."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from lookalike.errors import BadSettings
from pipeline.column_mapping import Note, category_path, parse_mapping


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


def test_tags_are_divided_by_the_separator_given_and_commas_are_told_without_one() -> None:
    notes: Counter[Note] = Counter()

    assert parse_mapping(["tags=t"]).product_fields({"t": "sale, Men"}, notes)["tags"] == ["sale,-men"]
    assert notes[Note.TAG_WITH_COMMA] == 1
    assert parse_mapping(["tags=t"], tags_separator=",").product_fields({"t": "sale, Men,,"}, notes)["tags"] == [
        "sale",
        "men",
    ]
    assert notes[Note.TAG_WITH_COMMA] == 1


def test_tags_beyond_the_limits_are_left_out_and_told() -> None:
    notes: Counter[Note] = Counter()
    cell = "|".join([*(f"t{number}" for number in range(40)), "x" * 65])

    assert parse_mapping(["tags=t"]).product_fields({"t": cell}, notes)["tags"] == [f"t{n}" for n in range(32)]
    assert notes[Note.TAG_LEFT_OUT] == 1


@pytest.mark.parametrize(
    ("conditions", "accepted"),
    [
        (["Status=active"], [True, False, False]),
        (["Status!=draft"], [True, False, True]),
        (["Status!=draft", "Status!="], [True, False, False]),
        (["Status=Active", "kind=a=b"], [False, False, False]),
    ],
)
def test_rows_are_chosen_by_the_text_of_a_column(conditions: list[str], accepted: list[bool]) -> None:
    mapping = parse_mapping([], where=conditions)

    assert [mapping.accepts({"Status": status}) for status in ("active ", "DRAFT", None)] == accepted
    assert "Status" in mapping.columns()


@pytest.mark.parametrize("condition", ["Status", "=x", "!=x", ""])
def test_a_condition_without_a_column_is_refused(condition: str) -> None:
    with pytest.raises(BadSettings, match="--where"):
        parse_mapping([], where=[condition])


def test_a_currency_beside_the_price_is_the_currency_unless_another_is_stated() -> None:
    assert parse_mapping(["price=p"]).product_fields({"p": "12.00 USD"}) == {
        "id": None,
        "price": "12.00",
        "currency": "USD",
    }
    assert parse_mapping(["price=p"], ["currency=JPY"]).product_fields({"p": "12 USD"})["currency"] == "JPY"


def test_a_default_category_is_for_products_without_one() -> None:
    notes: Counter[Note] = Counter()
    mapping = parse_mapping(["category=c"], default_category="other")

    assert [mapping.product_fields({"c": cell}, notes)["category"] for cell in ("Shoes", " / ", None)] == [
        "shoes",
        "other",
        "other",
    ]
    assert notes[Note.NO_CATEGORY] == 2


def test_markup_is_removed_where_that_is_asked_for() -> None:
    record = {"d": "<p>Soft &amp; warm</p>\n<script>x()</script><b>red</b>"}

    assert parse_mapping(["description=d"]).product_fields(record)["description"] == record["d"]
    assert parse_mapping(["description=d"], strip_html=True).product_fields(record)["description"] == "Soft & warm\nred"


def test_numbers_with_a_fraction_become_text_and_whole_ones_no_fraction() -> None:
    fields = parse_mapping(["title=brand,size", "description=size"]).product_fields(
        {"id": 7, "brand": 3.0, "size": 1.5}
    )

    assert fields == {"id": 7, "title": "3 1.5", "description": "1.5"}
