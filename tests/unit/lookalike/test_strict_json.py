"""JSON of files: what is none is a ValueError, whatever it is."""

from __future__ import annotations

import pytest

from lookalike.strict_json import parse_json


def test_json_is_parsed() -> None:
    assert parse_json('{"a": [1, 2.5, -1e3, true, null, "x"]}') == {"a": [1, 2.5, -1000.0, True, None, "x"]}


@pytest.mark.parametrize(
    "text",
    ["", "{", "[" * 100_000, '{"a":' * 100_000, "NaN", "-Infinity", "1e999", "1" + "0" * 400, "1" * 5000, b"\xff"],
)
def test_whatever_else_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # Python's own messages differ by version
        parse_json(text)
