"""`lookalike catalog get` and `list` against a small real gRPC server."""

from __future__ import annotations

import json

import pytest

from lookalike.v1.catalog_pb2 import ListRequest
from lookalike.v1.types_pb2 import Filter
from tests.unit.lookalike.cli.catalog import conftest
from tests.unit.lookalike.cli.catalog.conftest import FakeCatalog


async def test_a_product_is_shown_with_every_field_that_is_set(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("get", "p-1", "--vectors") == 0
    rows = [line.split(maxsplit=1) for line in capsys.readouterr().out.replace("in stock", "stock").splitlines()]
    assert {name: text.strip() for name, text in rows} == {
        "id": "p-1",
        "title": "靴",
        "description": "of leather",
        "category": "fashion/shoes",
        "shop": "kutsuya",
        "price": "0 JPY",
        "stock": "no",
        "image": "images/1.jpg",
        "tags": "a, b",
        "created": "2025-11-25 09:25:00 UTC",
        "expires": "2026-12-31 00:00:00 UTC",
        "revision": "1764066600000",
        "vectors": "text (2)",
    }


async def test_an_unknown_price_is_shown_as_unknown(gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]) -> None:
    assert await gateway.shell("get", "p-2") == 0
    assert "price     unknown" in capsys.readouterr().out
    assert await gateway.shell("list") == 0
    mug = next(line for line in capsys.readouterr().out.splitlines() if "mug" in line)
    assert mug.split()[-1] == "unknown"


async def test_a_product_as_json_has_its_vectors_as_numbers(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("get", "p-2", "--vectors", "--json") == 0
    product = json.loads(capsys.readouterr().out)
    assert (product["id"], product["vectors"], "price" in product) == ("p-2", {"text": [0.5, -0.5]}, False)


async def test_a_list_sends_its_conditions_and_as_json_has_a_product_per_line(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    conditions = ["--category", "fashion", "--currency", "JPY", "--has-price", "--no-in-stock", "--after", "p"]
    assert await gateway.shell("list", *conditions, "--json") == 0
    assert [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()] == ["p-1", "p-2"]
    filter = Filter(category_in=["fashion"], currency_in=["JPY"], has_price=True, in_stock=False)
    assert gateway.requests == [ListRequest(filter=filter, after="p")]


async def test_a_table_that_the_limit_cuts_off_says_how_to_go_on(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("list", "--limit", "1") == 0
    output = capsys.readouterr().out
    assert "there are more: --after p-1" in output
    assert "mug" not in output
    assert await gateway.shell("list", "--limit", "2") == 0
    assert "there are more" not in capsys.readouterr().out


async def test_an_empty_list_says_so(
    gateway: FakeCatalog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(conftest, "PRODUCTS", [])
    assert await gateway.shell("list") == 0
    assert capsys.readouterr().out == "nothing found\n"


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["get", "p-9"], 1, "no product p-9"),
        (["list", "--limit", "-1"], 2, "limit: -1 is not in"),
        (["list", "--filter", "{"], 2, "Failed to load JSON"),
    ],
)
async def test_a_failure_has_a_message_and_an_exit_status(
    gateway: FakeCatalog, capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert await gateway.shell(*arguments) == status
    assert message in capsys.readouterr().err
