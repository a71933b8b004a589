"""Prices as shops write them: "₹ 1,299.00", "1.299,00 €", "12.00 USD". Pure."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache
from typing import Any, Final, NamedTuple

_CACHED: Final = 1 << 16  # Results kept: the million products of a shop have far fewer prices.

# Three letters before or after the number: "12.00 USD", "JPY 1200".
_CURRENCY: Final = re.compile(r"(?<![A-Za-z])[A-Z]{3}(?![A-Za-z])")
# Most prices, such as "¥1,299" and "12.50": read at once.
_COMMON: Final = re.compile(r"[^\w+\-.,]?([0-9]{1,3}(?:,[0-9]{3})*|[0-9]+)(\.[0-9]{1,2})?")
_NUMBER: Final = re.compile(r"[^\d+\-.,]*([+-]?\d[\d.,'’ ]*)[^\d.,]*")
_GROUPED: Final = {  # Groups of three digits, and of two as in India; by the sign between them.
    sign: re.compile(rf"[+-]?\d{{1,3}}(?:{re.escape(sign)}\d{{2,3}})*{re.escape(sign)}\d{{3}}") for sign in ",.'"
}
_AMBIGUOUS: Final = re.compile(r"[+-]?\d{1,3}[.,]\d{3}")


class ParsedPrice(NamedTuple):
    """A price as a decimal number in ASCII, or the text as it was where that is not one."""

    amount: str
    currency: str = ""  # As stated beside the number; empty: none.
    decimal_comma: bool = False  # Certainly written with one: "49,90".
    ambiguous: bool = False  # 1.299 and 1,299 are one thousand, or one and a fraction.


def parse_price(cell: Any, decimal_sign: str = ".") -> ParsedPrice:
    """Remove currency signs and thousands separators from a price.

    decimal_sign: "." or ",", what a single sign before three digits is not decided by otherwise.
    """
    if isinstance(cell, str):
        return _parse_text(cell.strip(), decimal_sign)
    return ParsedPrice("" if cell is None else str(cell))


@lru_cache(_CACHED)
def _parse_text(text: str, decimal_sign: str) -> ParsedPrice:
    if not text or (text.isascii() and text.isdigit()):
        return ParsedPrice(text)
    if decimal_sign == "." and (common := _COMMON.fullmatch(text)):
        whole, fraction = common[1], common[2] or ""
        return ParsedPrice(whole.replace(",", "") + fraction, ambiguous=not fraction and whole.count(",") == 1)
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text)
    found = _CURRENCY.search(text)
    currency = found[0] if found else ""
    match = _NUMBER.fullmatch(re.sub(r"(?i)rs\.", "", text.replace(currency, "")))
    # Spaces and apostrophes between thousands, as in France and Switzerland.
    number = re.sub(r"(?<=\d)[ ’](?=\d)", "'", match[1].strip()) if match else ""
    grouped = bool(_GROUPED["'"].match(number))
    number = number.replace("'", "") if grouped else number
    sign = _decimal_sign(number, decimal_sign, grouped)
    if not (amount := _plain_number(number, sign)):
        return ParsedPrice(text)
    return ParsedPrice(
        amount,
        currency,
        decimal_comma=sign == "," and sign in number and decimal_sign == ".",
        ambiguous=bool(_AMBIGUOUS.fullmatch(number)),
    )


def _decimal_sign(number: str, usual: str, grouped: bool) -> str:
    """The decimal sign of a number: the last of both; a single one before three digits is the usual one's."""
    comma, point = number.rfind(","), number.rfind(".")
    last, other = (",", ".") if comma > point else (".", ",")
    if other in number or grouped or (number.count(last) == 1 and not _GROUPED[last].fullmatch(number)):
        return last
    return last if last == usual and number.count(last) == 1 else other


def _plain_number(number: str, sign: str) -> str:
    """A number without thousands separators and with a decimal point; empty if it is not one."""
    other = "." if sign == "," else ","
    whole, _, fraction = number.rpartition(sign) if sign in number else (number, "", "")
    if other in whole and not _GROUPED[other].fullmatch(whole):
        return ""
    amount = whole.replace(other, "") + (f".{fraction}" if fraction else "")
    return amount if re.fullmatch(r"[+-]?\d+(?:\.\d+)?", amount) else ""
