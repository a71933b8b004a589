"""`lookalike catalog export` against a small real gRPC server, and its file read as a catalogue."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from lookalike.v1.catalog_pb2 import ListRequest
from lookalike.v1.types_pb2 import Filter, Product
from pipeline import catalogue
from pipeline.product import RejectedRow
from tests.unit.lookalike.cli.catalog.conftest import PRODUCTS, FakeCatalog


async def test_the_file_is_read_as_a_catalogue_of_the_same_products(gateway: FakeCatalog, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").touch()
    assert await gateway.shell("export", str(tmp_path / "products.jsonl")) == 0
    rows = [*catalogue.read(tmp_path)]
    products = [dataclasses.asdict(row.product) for row in rows if not isinstance(row, RejectedRow)]
    for fields in products:
        if fields["price"] is None:
            del fields["price"]
    assert [Product(**fields) for fields in products] == PRODUCTS


async def test_unknown_values_are_left_out_and_those_that_are_zero_or_false_are_not(
    gateway: FakeCatalog, tmp_path: Path
) -> None:
    assert await gateway.shell("export", str(tmp_path / "products.jsonl")) == 0
    first, second = (json.loads(line) for line in (tmp_path / "products.jsonl").read_text("utf-8").splitlines())
    assert (first["price"], first["in_stock"], first["revision"]) == (0, False, 1_764_066_600_000)
    assert second == {"id": "p-2", "category": "home", "title": "mug", "in_stock": True}


async def test_it_asks_for_descriptions_and_only_for_what_passes(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "products.jsonl"
    assert await gateway.shell("export", str(file), "--shop", "a", "--json") == 0
    assert gateway.requests == [ListRequest(filter=Filter(shop_in=["a"]), descriptions=True)]
    assert json.loads(capsys.readouterr().out) == {"file": str(file), "products": 2}


async def test_an_export_that_breaks_leaves_the_file_as_it_was(gateway: FakeCatalog, tmp_path: Path) -> None:
    file = tmp_path / "products.jsonl"
    file.write_text("before")
    gateway.breaks_at = "p-2"
    assert await gateway.shell("export", str(file)) == 1
    assert (file.read_text(), os.listdir(tmp_path)) == ("before", [file.name])


async def test_a_file_that_cannot_be_written_is_exit_status_2(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (tmp_path / "none" / "products.jsonl", Path(__file__) / "products.jsonl", tmp_path):
        assert await gateway.shell("export", str(file)) == 2
        assert f"error: {file}: " in capsys.readouterr().err
