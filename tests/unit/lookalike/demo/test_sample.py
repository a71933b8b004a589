"""The sample catalogue: deterministic, varied, valid, and consistent in its titles, tags and photos."""

from __future__ import annotations

import io
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lookalike.cli import dispatch
from lookalike.demo.sample import command
from lookalike.demo.sample.assortment import LEAVES, MATERIALS, Leaf
from lookalike.demo.sample.drawing.curves import both, box, oval, path
from lookalike.demo.sample.drawing.look import Look
from lookalike.demo.sample.drawing.palette import COLOURS
from lookalike.demo.sample.drawing.patterns import CLOTHS
from lookalike.demo.sample.drawing.pen import CameraView, Pen
from lookalike.demo.sample.titles import SHOPS, shops
from lookalike.product_rules import CatalogueProduct
from pipeline import catalogue
from pipeline.catalogue import open_products
from pipeline.column_mapping import category_name
from pipeline.photos import PhotoSources, read_products
from pipeline.product import RejectedRow

COUNT = 2 * len(LEAVES)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("sample") / "shop"
    command.draw_catalogue(directory, products=COUNT, seed=3, workers=1)
    return directory


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def rows(directory: Path) -> list[CatalogueProduct]:
    return [item.product for item in catalogue.read(directory) if not isinstance(item, RejectedRow)]


def test_every_row_and_photo_is_valid(sample: Path) -> None:
    items = list(read_products(PhotoSources(directory=sample), open_products(sample), side_px=224))

    assert len(items) == COUNT
    assert not [item for item in items if isinstance(item, RejectedRow) or item.photo is None]


def test_the_same_seed_gives_the_same_bytes_on_any_number_of_cores(sample: Path, tmp_path: Path) -> None:
    command.draw_catalogue(tmp_path / "again", products=COUNT, seed=3, workers=2)

    assert files(tmp_path / "again") == files(sample)


def test_another_seed_gives_other_products(tmp_path: Path, sample: Path) -> None:
    command.draw_catalogue(tmp_path / "other", products=4, seed=4)

    assert rows(tmp_path / "other")[0] != rows(sample)[0]
    assert (tmp_path / "other/images/00001.jpg").read_bytes() != (sample / "images/00001.jpg").read_bytes()


def test_every_category_has_products_in_fashion_and_elsewhere(sample: Path) -> None:
    categories = Counter(row.category for row in rows(sample))

    assert set(categories) == {leaf.category for leaf in LEAVES}
    assert len(LEAVES) > 40
    assert sum(category.startswith("fashion/") for category in categories) == 15
    assert len({category.partition("/")[0] for category in categories}) == 10


def test_photos_are_jpegs_of_300_pixels_that_differ(sample: Path) -> None:
    pictures = [path.read_bytes() for path in sorted((sample / "images").iterdir())]

    assert len(set(pictures)) == COUNT
    for data in pictures:
        with Image.open(io.BytesIO(data)) as image:
            assert (image.format, image.size) == ("JPEG", (300, 300))


def test_every_photo_shows_a_product(sample: Path) -> None:
    for file in sorted((sample / "images").iterdir()):
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("L"), dtype=float)
        assert pixels[60:240, 60:240].std() > 4, file.name


def test_prices_shops_and_stock_are_plausible(sample: Path) -> None:
    sold = rows(sample)

    assert {row.currency for row in sold} == {"JPY"}
    assert all(row.price and row.price == int(row.price) and 400 <= row.price <= 150_000 for row in sold)
    assert len({row.shop for row in sold}) > 30
    assert 0.8 < sum(row.in_stock for row in sold) / len(sold) < 0.98


def test_titles_are_japanese_or_english_and_name_the_product(sample: Path) -> None:
    nouns = {leaf.category: leaf.noun for leaf in LEAVES}
    japanese = 0
    for row in rows(sample):
        english_noun, japanese_noun = nouns[row.category]
        variants = [words for leaf in LEAVES if leaf.category == row.category for words in leaf.variants.values()]
        assert english_noun in row.title or japanese_noun in row.title or any(en in row.title for en, _ in variants)
        assert row.description
        japanese += not row.title.isascii()
    assert 0.4 < japanese / COUNT < 0.85


def test_tags_give_the_true_colour_material_and_pattern_in_english(sample: Path) -> None:
    leaves = {leaf.category: leaf for leaf in LEAVES}
    values: dict[str, set[str]] = {"colour": set(), "material": set(), "pattern": set()}
    for row in rows(sample):
        leaf, tags = leaves[row.category], dict(tag.split(":") for tag in row.tags)
        for label, value in tags.items():
            values[label].add(value)
        assert tags.get("colour") in {None, *(category_name(colour.name) for colour in leaf.colours)}
        made_of = {category_name(english) for english, _ in leaf.materials if english in MATERIALS}
        assert tags.get("material") in {None, *made_of}
        assert ("pattern" in tags) == (len(leaf.patterns) > 1)
        if row.title.isascii() and "colour" in tags:
            assert tags["colour"].replace("-", " ") in row.title.lower()
        assert row.tags == tuple(sorted(row.tags))
    assert {label: len(found) > 6 for label, found in values.items()} == dict.fromkeys(values, True)


def test_every_material_belongs_to_a_category() -> None:
    assert {english for leaf in LEAVES for english, _ in leaf.materials} >= MATERIALS


def test_every_department_has_shops_of_both_languages() -> None:
    sellers = shops(0)

    assert len(sellers) == len({shop.name for shop in sellers}) == SHOPS >= 60
    for department in {leaf.department for leaf in LEAVES}:
        assert {shop.japanese for shop in sellers if department in shop.departments} == {True, False}


@pytest.mark.parametrize("leaf", LEAVES, ids=[leaf.category for leaf in LEAVES])
def test_every_variant_can_be_drawn_in_every_pattern(leaf: Leaf) -> None:
    for number, variant in enumerate(leaf.variants):
        for pattern in CLOTHS[number :: len(leaf.variants)][:3]:
            look = Look(
                variant=variant, main=COLOURS[5].rgb, accent=COLOURS[1].rgb, pattern=pattern, rng=random.Random(1)
            )
            pen = Pen(CameraView(degrees=5, mirrored=True), look.main)
            leaf.draw(pen, look)
            covered = np.asarray(pen.silhouette).mean() / 255
            assert 0.04 < covered < 0.85, (variant, covered)


def test_a_directory_that_is_not_empty_is_refused(sample: Path) -> None:
    assert dispatch.run(lambda: command.main([str(sample)], {})) == 2


@pytest.mark.parametrize("count", ["0", "-1", "1000001"])
def test_the_number_of_products_is_bounded(tmp_path: Path, count: str) -> None:
    assert dispatch.run(lambda: command.main([str(tmp_path / "x"), "--products", count], {})) == 2


def test_outlines_are_points_along_paths() -> None:
    assert path("M0 0 L10 0 Q10 10 0 10")[0::11] == [(0, 0), (0, 10)]
    assert both("M50 0 L60 10") == [(50, 0), (60, 10), (40, 10), (50, 0)]
    assert box(0, 0, 4, 2) == [(0, 0), (4, 0), (4, 2), (0, 2)]
    assert len(oval(0, 0, 1)) == 48
