from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lookalike.errors import BadCatalogue
from pipeline import catalogue
from pipeline.catalogue_report import CatalogueReport, MaxRejected
from pipeline.sync.database import Database
from pipeline.sync.snapshot import write_snapshot
from tests.sync_shops import NOW_S, Shop, settings

T0, T1 = "2025-11-24 10:00:00", "2025-11-24 10:00:05"


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


def write(shop: Shop, directory: Path | None, report: CatalogueReport | None = None, **changed: Any) -> CatalogueReport:
    chosen, report = settings(**changed), report or CatalogueReport()
    write_snapshot(chosen, Database(shop.url, chosen.source), directory, report, now_s=NOW_S)
    return report


def test_a_snapshot_is_a_catalogue_with_the_revisions_that_events_have(shop: Shop, tmp_path: Path) -> None:
    shop.put("a", T0, title="mug", price=None)
    shop.put("b", T1, title="cup")
    shop.put("gone", T1, deleted=1)
    report = write(shop, tmp_path / "out", deleted="deleted")
    rows = [json.loads(line) for line in (tmp_path / "out" / "products.jsonl").read_text().splitlines()]
    assert rows == [
        {"id": "a", "category": "home", "title": "mug", "revision": 1763978400000},
        {"id": "b", "category": "home", "title": "cup", "price": 5.0, "revision": 1763978405000},
    ]
    assert (report.rows, report.products, report.filtered) == (3, 2, 1)
    assert [row.product.id for row in catalogue.read(tmp_path / "out") if isinstance(row, catalogue.CatalogueRow)] == [
        "a",
        "b",
    ]


def test_a_snapshot_takes_the_place_of_an_earlier_one_and_of_nothing_else(shop: Shop, tmp_path: Path) -> None:
    shop.put("a", T0)
    write(shop, tmp_path / "out")
    shop.put("b", T1)
    assert write(shop, tmp_path / "out").products == 2
    (tmp_path / "out" / "products.csv").write_text("id,category\n")
    with pytest.raises(BadCatalogue, match=r"another products file: products\.csv"):
        write(shop, tmp_path / "out")


def test_a_read_that_fails_leaves_the_earlier_snapshot(shop: Shop, tmp_path: Path) -> None:
    shop.put("a", T0)
    write(shop, tmp_path)
    before = (tmp_path / "products.jsonl").read_text()
    shop.put("b", T1, price=-1)
    with pytest.raises(BadCatalogue, match="1 of 2 rows rejected"):
        write(shop, tmp_path, CatalogueReport(max_rejected=MaxRejected(0, False)))
    assert (tmp_path / "products.jsonl").read_text() == before
    assert not (tmp_path / "products.jsonl.part").exists()


def test_of_rows_with_one_id_the_first_is_kept(shop: Shop, tmp_path: Path) -> None:
    shop.fill(600, T0)  # More than are fetched at once.
    shop.add("p1", T1, title="again")
    report = write(shop, tmp_path)
    assert report.reasons == {"duplicate id": 1}
    assert "again" not in (tmp_path / "products.jsonl").read_text()


def test_a_result_without_a_valid_product_is_no_catalogue(shop: Shop, tmp_path: Path) -> None:
    with pytest.raises(BadCatalogue, match="no valid product"):
        write(shop, tmp_path / "out")
    assert not (tmp_path / "out" / "products.jsonl").exists()


def test_without_a_directory_the_rows_are_only_read(shop: Shop) -> None:
    shop.put("a", T0)
    assert write(shop, None).products == 1
