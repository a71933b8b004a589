"""`lookalike catalog check`: its output and exit status."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from lookalike.cli import dispatch
from lookalike.runtime.ordered_map import ordered_map
from lookalike.timestamps import unix_time_s
from pipeline.catalogue import open_products
from pipeline.catalogue_check import main
from pipeline.photos import PhotoSources, read_products
from pipeline.product import RejectedRow, UnusedPhotoReason
from tests.unit.pipeline.catalogues import numbered_rows, photo, write_jsonl


@pytest.fixture
def shop_with_bad_rows(tmp_path: Path) -> Path:
    rows: list[dict[str, Any]] = [
        {"id": "good", "image": "images/a.png"},
        {"id": "no photo"},
        {"id": "broken", "image": "images/b.png"},
        {"id": "not a photo", "image": "images/c.png"},
        {"id": "bad price", "price": -1},
        {"id": "good"},
    ]
    photos = {"images/a.png": photo(), "images/b.png": photo()[:60], "images/c.png": b"hello"}
    return write_jsonl(tmp_path / "shop", *rows, photos=photos)


def run(*argv: str | Path) -> int:
    return dispatch.run(lambda: main([str(word) for word in argv], {}))


def test_every_bad_row_and_photo_is_reported_with_file_line_and_reason(
    shop_with_bad_rows: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(shop_with_bad_rows) == 0

    output = capsys.readouterr()
    lines = output.err.splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["products.jsonl:3", "broken photo"],
        ["products.jsonl:4", "broken photo"],
        ["products.jsonl:5", "bad price"],
        ["products.jsonl:6", "duplicate id"],
    ]
    assert "4 products, 2 bad rows skipped: 1 bad price, 1 duplicate id" in output.out
    assert "read: 6 rows" in output.out
    assert "with a photo: 1; with a word in title or description: 4" in output.out
    assert "kept without their photo: 2 broken photo" in output.out


def test_the_first_bad_row_stops_a_strict_check(shop_with_bad_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop_with_bad_rows, "--strict") == 2

    assert capsys.readouterr().err.startswith('error: products.jsonl:3: broken photo: "b.png"')


@pytest.mark.parametrize(("unit", "rejected"), [("ms", 1), ("ns", 0), ("none", 0)])
def test_a_revision_far_ahead_is_a_bad_row_unless_revisions_have_another_unit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], unit: str, rejected: int
) -> None:
    shop = write_jsonl(tmp_path, {"id": "1", "revision": int(unix_time_s() * 10**9)}, {"id": "2", "revision": 7})

    assert run(shop, "--revision-unit", unit, "--json") == 0

    assert json.loads(capsys.readouterr().out)["reasons"] == ({"bad revision": 1} if rejected else {})


def test_json_contains_every_bad_row(shop_with_bad_rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(shop_with_bad_rows, "--json") == 0

    result = json.loads(capsys.readouterr().out)
    assert (result["rows"], result["products"], result["rejected"], result["photos"]) == (6, 4, 2, 1)
    assert result["reasons"] == {"bad price": 1, "duplicate id": 1}
    assert [reject["line"] for reject in result["rejects"]] == [5, 6]
    assert result["unused_photos"] == {"broken photo": 2}
    assert [problem["line"] for problem in result["photo_problems"]] == [3, 4]


def test_products_that_no_search_finds_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": "emoji", "title": "👟✨"}, {"id": "described", "title": "👟", "description": "赤い スニーカー"}]

    assert run(write_jsonl(tmp_path, *rows), "--json") == 0

    output = capsys.readouterr()
    assert json.loads(output.out)["unfindable"] == ["emoji"]
    assert "products.jsonl:1: in no space" in output.err
    assert "described" not in output.err


@pytest.mark.parametrize(("bound", "status"), [("1", 2), ("2", 0), ("33%", 2), ("34%", 0)])
def test_more_rejected_rows_than_allowed_fail_the_check(shop_with_bad_rows: Path, bound: str, status: int) -> None:
    assert run(shop_with_bad_rows, "--max-rejected", bound) == status


@pytest.mark.parametrize("bound", ["many", "-1", "101%", "1.5"])
def test_a_bound_on_rejected_rows_is_a_number_or_a_percentage(shop_with_bad_rows: Path, bound: str) -> None:
    assert run(shop_with_bad_rows, f"--max-rejected={bound}") == 2


def test_a_title_that_was_cut_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(write_jsonl(tmp_path, {"title": "t" * 1001})) == 0

    assert "notice: products.jsonl:1: title: cut from 1001 to 1000 characters" in capsys.readouterr().err


def test_a_catalogue_without_a_product_is_an_error(tmp_path: Path) -> None:
    assert run(write_jsonl(tmp_path, {"price": -1})) == 2


def test_a_photo_with_a_stored_vector_is_not_decoded(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"image": "a.png"}, photos={"a.png": photo()})
    (first,) = read_products(PhotoSources(directory=tmp_path), open_products(tmp_path), side_px=224)
    assert not isinstance(first, RejectedRow)
    assert first.photo is not None
    assert first.photo.pixels is not None
    assert first.photo.pixels.shape == (224, 224, 3)

    (second,) = read_products(
        PhotoSources(directory=tmp_path), open_products(tmp_path), side_px=224, stored_digests={first.photo.digest}
    )

    assert not isinstance(second, RejectedRow)
    assert second.photo is not None
    assert (second.photo.digest, second.photo.pixels) == (first.photo.digest, None)


def test_a_photo_over_eight_megabytes_is_too_large(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {"image": "a.png"}, photos={"a.png": photo() + b"\0" * (8 << 20)})

    (item,) = read_products(PhotoSources(directory=tmp_path), open_products(tmp_path), side_px=224)

    assert not isinstance(item, RejectedRow)
    assert item.photo is None
    assert item.unused_photo is not None
    assert item.unused_photo.reason is UnusedPhotoReason.TOO_LARGE


def test_rows_keep_their_order_while_photos_are_decoded(tmp_path: Path) -> None:
    write_jsonl(tmp_path, *numbered_rows(60, image="a.png"), photos={"a.png": photo(size=(800, 800))})

    assert [
        item.product.id
        for item in read_products(PhotoSources(directory=tmp_path), open_products(tmp_path), side_px=224)
        if not isinstance(item, RejectedRow)
    ] == [f"p{n}" for n in range(60)]


def test_the_ordered_map_reads_no_more_items_ahead_than_its_limit() -> None:
    items_read, lock = 0, threading.Lock()

    def numbers() -> object:
        nonlocal items_read
        for number in range(100):
            with lock:
                items_read += 1
            yield number

    results = ordered_map(lambda number: number, numbers(), workers=2, ahead=8)  # type: ignore[arg-type, var-annotated]
    next(results)
    time.sleep(0.05)

    assert items_read == 8
