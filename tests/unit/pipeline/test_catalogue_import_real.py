"""The import commands documented in docs/catalogue.md, run on the real tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from lookalike.product_rules import CatalogueProduct
from pipeline import catalogue
from pipeline.import_command import main
from pipeline.product import RejectedRow

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


def documented_commands() -> dict[str, list[str]]:
    """The arguments of the documented commands, by the directory that they create."""
    joined = DOCS.read_text(encoding="utf-8").replace("\\\n", " ")
    arguments = [shlex.split(line) for line in re.findall(r"^lookalike catalog import (.*)$", joined, re.MULTILINE)]
    return {words[1]: words for words in arguments}


def run_import(name: str, real_data: Path, tmp_path: Path, *more: str) -> list[CatalogueProduct]:
    words = [str(real_data / FILES[word] / word) if word in FILES else word for word in documented_commands()[name]]
    assert main([words[0], str(tmp_path / name), *words[2:], *more], {}) == 0
    items = list(catalogue.read(tmp_path / name))
    assert not [item for item in items if isinstance(item, RejectedRow)]
    return [item.product for item in items if not isinstance(item, RejectedRow)]


@pytest.mark.data
def test_the_fashion_table_is_imported_with_photos_of_60_by_80_pixels(real_data: Path, tmp_path: Path) -> None:
    products = run_import("fashion", real_data, tmp_path, "--limit", "150")

    assert len(products) == 150
    assert all(product.image and product.title for product in products)
    assert {product.category.split("/")[0] for product in products} == {"fashion"}
    assert "fashion/apparel/topwear/tshirts" in {product.category for product in products}
    assert all({"men", "women", "unisex", "boys", "girls"} & set(product.tags) for product in products)
    assert all(any(tag.startswith("colour:") for tag in product.tags) for product in products)


@pytest.mark.data
@pytest.mark.slow
def test_the_fashion_table_is_imported_with_photos_of_224_pixels(real_data: Path, tmp_path: Path) -> None:
    products = run_import("fashion-224", real_data, tmp_path, "--limit", "100")

    assert len(products) == 100
    assert all(product.image for product in products)


@pytest.mark.data
def test_the_flipkart_table_is_imported_with_photos(real_data: Path, tmp_path: Path) -> None:
    products = run_import("flipkart", real_data, tmp_path, "--limit", "150")

    assert len(products) == 150
    assert sum(bool(product.image) for product in products) > 140
    assert sum(bool(product.price) for product in products) > 140
    assert all(product.title and 1 <= product.category.count("/") + 1 <= 3 for product in products)


@pytest.mark.data
def test_a_table_of_twenty_thousand_names_without_a_header_is_imported(real_data: Path, tmp_path: Path) -> None:
    products = run_import("names", real_data, tmp_path)

    assert len(products) > 19_900
    assert "clothing/women's-clothing" in {product.category for product in products}


@pytest.mark.data
def test_the_myntra_table_is_imported_with_descriptions(real_data: Path, tmp_path: Path) -> None:
    products = run_import("myntra", real_data, tmp_path, "--limit", "2000")

    assert len(products) == 2000
    assert {product.category for product in products} >= {"fashion/women", "fashion/men"}
    assert all(product.description and product.price for product in products)
