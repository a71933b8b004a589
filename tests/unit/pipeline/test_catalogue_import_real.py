"""The import commands of docs/catalogue.md, on the real tables that they are for."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from pipeline import catalogue
from pipeline.catalogue_import import main
from pipeline.product import Reject, Row

DOCS = Path(__file__).resolve().parents[3] / "docs" / "catalogue.md"
FILES = {
    "fashion_products.csv.gz": "fashion",
    "images_224.tar.xz": "fashion",
    "images_60x80.tar.xz": "fashion",
    "flipkart_com-ecommerce_sample_1050.csv": "flipkart",
    "images.tar": "flipkart",
    "flipkart_20000_name_category_noheader.csv.gz": "text",
    "myntra_products_catalog.csv.gz": "text",
}


def commands() -> dict[str, list[str]]:
    """The documented commands by what they make."""
    joined = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    found = [shlex.split(line) for line in re.findall(r"^lookalike catalog import (.*)$", joined, re.MULTILINE)]
    return {words[1]: words for words in found}


def imported(name: str, real_data: Path, tmp_path: Path, *more: str) -> list[Row]:
    words = [str(real_data / FILES[word] / word) if word in FILES else word for word in commands()[name]]
    assert main([words[0], str(tmp_path / name), *words[2:], *more], {}) == 0
    items = list(catalogue.read(tmp_path / name))
    assert not [item for item in items if isinstance(item, Reject)]
    return [item[1] for item in items if not isinstance(item, Reject)]


@pytest.mark.data
def test_fashion_with_photos_of_60_by_80(real_data: Path, tmp_path: Path) -> None:
    rows = imported("fashion", real_data, tmp_path, "--limit", "150")

    assert len(rows) == 150
    assert all(row.image and row.title for row in rows)
    assert {row.category.split("/")[0] for row in rows} == {"fashion"}
    assert "fashion/apparel/topwear/tshirts" in {row.category for row in rows}
    assert all({"men", "women", "unisex", "boys", "girls"} & set(row.tags) for row in rows)
    assert all(any(tag.startswith("colour:") for tag in row.tags) for row in rows)


@pytest.mark.data
@pytest.mark.slow
def test_fashion_with_photos_of_224(real_data: Path, tmp_path: Path) -> None:
    rows = imported("fashion-224", real_data, tmp_path, "--limit", "100")

    assert len(rows) == 100
    assert all(row.image for row in rows)


@pytest.mark.data
def test_flipkart_with_photos(real_data: Path, tmp_path: Path) -> None:
    rows = imported("flipkart", real_data, tmp_path, "--limit", "150")

    assert len(rows) == 150
    assert sum(bool(row.image) for row in rows) > 140
    assert sum(row.price > 0 for row in rows) > 140
    assert all(row.title and 1 <= row.category.count("/") + 1 <= 3 for row in rows)


@pytest.mark.data
def test_twenty_thousand_names_without_a_header(real_data: Path, tmp_path: Path) -> None:
    rows = imported("names", real_data, tmp_path)

    assert len(rows) > 19_900
    assert "clothing/women's-clothing" in {row.category for row in rows}


@pytest.mark.data
def test_myntra_with_descriptions(real_data: Path, tmp_path: Path) -> None:
    rows = imported("myntra", real_data, tmp_path, "--limit", "2000")

    assert len(rows) == 2000
    assert {row.category for row in rows} >= {"fashion/women", "fashion/men"}
    assert all(row.description and row.price > 0 for row in rows)
