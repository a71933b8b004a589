"""Prices as shops write them."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.prices import parse_price


@pytest.mark.parametrize(
    ("cell", "price"),
    [
        ("1,299.00", "1299.00"),
        ("₹ 899", "899"),
        ("Rs. 1,499", "1499"),
        ("¥2,980 (税込)", "2980"),
        ("１，２９９円", "1299"),
        ("-5", "-5"),
        ("free", "free"),
        ("", ""),
        (None, ""),
        (12.5, "12.5"),
        (1.299, "1.299"),
        ("10-20", "10-20"),
        ("1,29,900.00", "129900.00"),
        ("1.299,00", "1299.00"),
        ("1.299.000", "1299000"),
        ("12,50 €", "12.50"),
        ("1 299,00 €", "1299.00"),
        ("1\u202f299,00\u00a0€", "1299.00"),
        ("CHF 1'299.00", "1299.00"),
        ("0.5", "0.5"),
        ("1,2,3", "1,2,3"),
        ("1.234,5.6", "1.234,5.6"),
        ("1 2 3", "1 2 3"),
        ("1e5", "1e5"),
    ],
)
def test_a_price_loses_signs_and_separators_and_nothing_else(cell: Any, price: str) -> None:
    assert parse_price(cell).amount == price


@pytest.mark.parametrize(("cell", "point", "comma"), [("1.299", "1.299", "1299"), ("1,299", "1299", "1.299")])
def test_one_sign_before_three_digits_is_read_by_the_decimal_sign(cell: str, point: str, comma: str) -> None:
    assert parse_price(cell, ".").amount == point
    assert parse_price(cell, ",").amount == comma
    assert parse_price(cell).ambiguous


@pytest.mark.parametrize(
    ("cell", "currency"), [("12.00 USD", "USD"), ("USD12.00", "USD"), ("JPY 1200", "JPY"), ("12 €", ""), ("USDX 1", "")]
)
def test_three_capital_letters_beside_a_price_are_its_currency(cell: str, currency: str) -> None:
    assert parse_price(cell).currency == currency
