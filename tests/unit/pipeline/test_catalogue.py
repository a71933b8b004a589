"""The catalogue format: which rows are valid products, and every reason for rejecting one."""

from __future__ import annotations

import gzip
import json
import logging
import unicodedata
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.storage import attributes
from lookalike.errors import BadCatalogue
from lookalike.product_rules import FIELDS, CatalogueProduct, RejectReason
from pipeline import catalogue
from pipeline.product import RejectedRow, UnusedPhotoReason
from pipeline.tables import reader
from tests.unit.pipeline.catalogues import VALID_ROW, numbered_rows, photo, write_jsonl, write_table


def read(directory: Path) -> tuple[list[CatalogueProduct], list[RejectedRow]]:
    items = list(catalogue.read(directory))
    rejects = [item for item in items if isinstance(item, RejectedRow)]
    return [item.product for item in items if not isinstance(item, RejectedRow)], rejects


def read_only_reject(directory: Path) -> RejectedRow:
    rows, rejects = read(directory)
    assert not rows
    assert len(rejects) == 1
    return rejects[0]


def test_a_product_is_read_with_every_field(tmp_path: Path) -> None:
    full = VALID_ROW | {"description": "Soft", "shop": "s1", "image": "images/a.png", "url": "https://s.example/a1"}
    write_jsonl(tmp_path, full, photos={"images/a.png": photo()})

    assert read(tmp_path) == ([CatalogueProduct(**full)], [])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_json_lines_csv_and_parquet_give_the_same_products(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a1", "title": '赤い 靴, "red"', "category": "fashion/shoes", "price": 1200.5, "in_stock": False,
         "tags": ("colour:red", "women"), "created_at": 1764062700},
        {"id": "a2", "title": "two\nlines", "category": "home", "price": None, "in_stock": True, "tags": (),
         "created_at": 0},
    ]  # fmt: skip
    if kind == "jsonl":
        (tmp_path / "products.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == "parquet":
        created = pa.array([datetime(2025, 11, 25, 9, 25), None])
        products = pa.Table.from_pylist(rows).drop_columns("created_at").append_column("created_at", created)
        pq.write_table(products, tmp_path / "products.parquet")
    else:
        csv = (
            "id,title,category,price,in_stock,tags,created_at\n"
            'a1,"赤い 靴, ""red""",fashion/shoes,1200.5,no,women|colour:red,2025-11-25T09:25\n'
            'a2,"two\nlines",home,,,,\n'
        )
        write_table(tmp_path, csv)

    assert read(tmp_path) == ([CatalogueProduct(**row) for row in rows], [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, RejectReason.MISSING_ID),
        ({"id": None}, RejectReason.MISSING_ID),
        ({"id": "  "}, RejectReason.MISSING_ID),
        ({"id": "x" * 257}, RejectReason.BAD_ID),
        ({"id": "靴" * 86}, RejectReason.BAD_ID),
        ({"id": ["a"]}, RejectReason.BAD_TEXT),
        ({"id": True}, RejectReason.BAD_TEXT),
        ({"id": "a\x00b"}, RejectReason.BAD_ID),
        ({"id": "a\nb"}, RejectReason.BAD_ID),
        ({"title": "\ud800"}, RejectReason.BAD_TEXT),
        ({"shop": "s" * 257}, RejectReason.LONG_FIELD),
        ({"category": ""}, RejectReason.MISSING_CATEGORY),
        ({"category": None}, RejectReason.MISSING_CATEGORY),
        ({"category": "fashion//shoes"}, RejectReason.BAD_CATEGORY),
        ({"price": -1}, RejectReason.BAD_PRICE),
        ({"price": "cheap"}, RejectReason.BAD_PRICE),
        ({"price": "1,200"}, RejectReason.BAD_PRICE),
        ({"price": "1_200"}, RejectReason.BAD_PRICE),
        ({"price": float("nan")}, RejectReason.BAD_PRICE),
        ({"price": float("inf")}, RejectReason.BAD_PRICE),
        ({"price": 10**400}, RejectReason.BAD_PRICE),
        ({"price": True}, RejectReason.BAD_PRICE),
        ({"currency": "yen"}, RejectReason.BAD_CURRENCY),
        ({"in_stock": "perhaps"}, RejectReason.BAD_STOCK),
        ({"in_stock": "nan"}, RejectReason.BAD_STOCK),
        ({"in_stock": "1_0"}, RejectReason.BAD_STOCK),
        ({"tags": [""]}, RejectReason.BAD_TAGS),
        ({"tags": ["a", " "]}, RejectReason.BAD_TAGS),
        ({"tags": "a||b"}, RejectReason.BAD_TAGS),
        ({"tags": "靴" * 22}, RejectReason.BAD_TAGS),
        ({"tags": [f"t{number}" for number in range(33)]}, RejectReason.BAD_TAGS),
        ({"tags": ["a", ["b"]]}, RejectReason.BAD_TEXT),
        ({"tags": ["\ud800"]}, RejectReason.BAD_TEXT),
        ({"tags": {"colour": "red"}}, RejectReason.BAD_TEXT),
        ({"tags": True}, RejectReason.BAD_TEXT),
        ({"created_at": -1}, RejectReason.BAD_TIME),
        ({"revision": -1}, RejectReason.BAD_REVISION),
        ({"revision": 1.5}, RejectReason.BAD_REVISION),
        ({"revision": True}, RejectReason.BAD_REVISION),
        ({"revision": "new"}, RejectReason.BAD_REVISION),
        ({"revision": 1 << 64}, RejectReason.BAD_REVISION),
        ({"revision": (1 << 64) - 1}, RejectReason.BAD_REVISION),  # More than a day ahead, in milliseconds.
        ({"revision": "9" * 5000}, RejectReason.BAD_REVISION),
        ({"created_at": 1.5}, RejectReason.BAD_TIME),
        ({"created_at": True}, RejectReason.BAD_TIME),
        ({"created_at": "yesterday"}, RejectReason.BAD_TIME),
        ({"created_at": "1969-12-31"}, RejectReason.BAD_TIME),
        ({"created_at": 1_764_062_700_000}, RejectReason.BAD_TIME),  # Milliseconds.
        ({"created_at": "9" * 5000}, RejectReason.BAD_TIME),
    ],
)
def test_an_invalid_field_rejects_the_row_with_its_reason(
    tmp_path: Path, fields: dict[str, Any], reason: RejectReason
) -> None:
    write_jsonl(tmp_path, fields, photos={"images/a.png": photo()})

    reject = read_only_reject(tmp_path)

    assert (reject.file, reject.line, reject.reason) == ("products.jsonl", 1, reason)


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("/etc/passwd", UnusedPhotoReason.BAD_PATH),
        ("../a.png", UnusedPhotoReason.BAD_PATH),
        ("images/../../a.png", UnusedPhotoReason.BAD_PATH),
        ("..\\a.png", UnusedPhotoReason.BAD_PATH),
        ("ftp://s.example/a.png", UnusedPhotoReason.BAD_PATH),
        (".", UnusedPhotoReason.BAD_PATH),
        ("images/none.png", UnusedPhotoReason.MISSING),
        ("images", UnusedPhotoReason.MISSING),
        ("images/a.png/b.png", UnusedPhotoReason.MISSING),
        ("n" * 300, UnusedPhotoReason.BAD_PATH),
        ("x/" * 512, UnusedPhotoReason.MISSING),
    ],
)
def test_a_product_whose_photo_is_not_there_is_kept_without_it(
    tmp_path: Path, image: str, reason: UnusedPhotoReason
) -> None:
    write_jsonl(tmp_path, {"image": image}, photos={"images/a.png": photo()})

    (row,) = catalogue.read(tmp_path)

    assert isinstance(row, catalogue.CatalogueRow)
    assert row.product.image == ""
    assert row.unused_photo is not None
    assert (row.unused_photo.line, row.unused_photo.id, row.unused_photo.reason) == (1, "a1", reason)


@pytest.mark.parametrize("on_disk", ["NFC", "NFD"])
@pytest.mark.parametrize("in_row", ["NFC", "NFD"])
def test_a_photo_is_found_in_any_unicode_form_of_its_path(tmp_path: Path, on_disk: str, in_row: str) -> None:
    path = "画像ガ/ガウン.png"
    write_jsonl(
        tmp_path,
        {"image": unicodedata.normalize(in_row, path)},  # type: ignore[arg-type]
        photos={unicodedata.normalize(on_disk, path): photo()},  # type: ignore[arg-type]
    )

    (product,), rejects = read(tmp_path)

    assert not rejects
    assert (tmp_path / product.image).is_file()


def test_a_photo_by_url_stays_in_its_product(tmp_path: Path) -> None:
    (product,), _ = read(write_jsonl(tmp_path, {"image": "https://cdn.example/a.jpg"}))

    assert product.image == "https://cdn.example/a.jpg"


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id": 17}, {"id": "17"}),
        ({"id": "x" * 256}, {"id": "x" * 256}),
        ({"title": "靴" * 1000}, {"title": "靴" * 1000}),
        ({"title": None}, {"title": ""}),
        ({"price": "12.50"}, {"price": 12.5}),
        ({"price": None}, {"price": None}),
        ({"price": 0}, {"price": 0.0}),
        ({"in_stock": "NO"}, {"in_stock": False}),
        ({"in_stock": None}, {"in_stock": True}),
        ({"in_stock": 2}, {"in_stock": True}),
        ({"in_stock": "0"}, {"in_stock": False}),
        ({"in_stock": -3}, {"in_stock": False}),
        ({"in_stock": "In Stock"}, {"in_stock": True}),
        ({"in_stock": "out_of_stock"}, {"in_stock": False}),
        ({"in_stock": "1,200"}, {"in_stock": True}),
        ({"in_stock": "０"}, {"in_stock": False}),
        ({"in_stock": "https://schema.org/InStock"}, {"in_stock": True}),
        ({"in_stock": "在庫あり"}, {"in_stock": True}),
        ({"in_stock": "完売"}, {"in_stock": False}),
        ({"in_stock": "preorder"}, {"in_stock": False}),
        ({"image": None}, {"image": ""}),
        ({"category": " home "}, {"category": "home"}),
        ({"category": "/home / lamps/"}, {"category": "home/lamps"}),
        ({"category": "\u30ab\u3099"}, {"category": "\u30ac"}),  # Decomposed and composed.
        ({"title": "t" * 1001}, {"title": "t" * 1000}),
        ({"description": "靴" * 30_000}, {"description": "靴" * 21_845}),
        ({"url": "u" * 2049}, {"url": ""}),
        ({"image": "https://s.example/a.png"}, {"image": "https://s.example/a.png"}),
        ({"expires_at": "2025-11-25"}, {"expires_at": 1_764_028_800}),
        ({"created_at": None}, {"created_at": 0}),
        ({"revision": ""}, {"revision": 0}),
        ({"revision": "17"}, {"revision": 17}),
        ({"created_at": ""}, {"created_at": 0}),
        ({"created_at": "1764062700"}, {"created_at": 1_764_062_700}),
        ({"created_at": "2025-11-25"}, {"created_at": 1_764_028_800}),
        ({"created_at": "2025-11-25T09:25:00.9Z"}, {"created_at": 1_764_062_700}),
        ({"created_at": "2025-11-25T18:25+09:00"}, {"created_at": 1_764_062_700}),
        ({"tags": None}, {"tags": ()}),
        ({"tags": ""}, {"tags": ()}),
        ({"tags": []}, {"tags": ()}),
        ({"tags": "women | colour:red|women"}, {"tags": ("colour:red", "women")}),
        ({"tags": ["women", " colour:red ", "women", 2012]}, {"tags": ("2012", "colour:red", "women")}),
        ({"tags": ["a|b", "靴" * 21]}, {"tags": ("a|b", "靴" * 21)}),
        ({"tags": [f"t{number % 32:02}" for number in range(64)]}, {"tags": tuple(f"t{n:02}" for n in range(32))}),
    ],
)
def test_accepted_field_values_are_normalised(tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    products, rejects = read(write_jsonl(tmp_path, fields))

    assert not rejects
    assert {name: getattr(products[0], name) for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        "null",
        "[" * 100_000,
        '{"id": "x", "price": ' + "9" * 5000 + "}",
        '"' + "x" * (1 << 20),
    ],
)
def test_a_broken_line_is_rejected_and_the_next_line_is_read(tmp_path: Path, line: str | bytes) -> None:
    products, rejects = read(write_jsonl(tmp_path, line, {"id": "next"}))

    assert [(reject.line, reject.reason) for reject in rejects] == [(1, RejectReason.BROKEN_ROW)]
    assert [product.id for product in products] == ["next"]


def test_the_first_valid_row_of_an_id_is_kept_and_later_ones_are_rejected(tmp_path: Path) -> None:
    products, rejects = read(
        write_jsonl(tmp_path, {"price": -1}, {"title": "second"}, {"title": "third"}, "", {"title": "last"})
    )

    assert [product.title for product in products] == ["second"]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (1, RejectReason.BAD_PRICE),
        (3, RejectReason.DUPLICATE_ID),
        (5, RejectReason.DUPLICATE_ID),
    ]
    assert "line 2" in rejects[1].detail


def test_a_bad_csv_row_is_reported_with_the_number_of_its_first_line(tmp_path: Path) -> None:
    write_table(
        tmp_path, 'id,title,category\na,"one\ntwo\nthree",home\nb,short\nc,"open" quote,home\n\nd,last,home\ne,"x'
    )

    products, rejects = read(tmp_path)

    assert [product.id for product in products] == ["a", "d"]
    assert [(reject.line, reject.detail) for reject in rejects[:1]] == [(5, "2 columns, expected 3")]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (5, RejectReason.BROKEN_ROW),
        (6, RejectReason.BROKEN_ROW),
        (9, RejectReason.BROKEN_ROW),
    ]


def test_an_unterminated_csv_cell_is_a_broken_row_and_reading_continues(tmp_path: Path) -> None:
    write_table(tmp_path, 'id,title,category\na,"' + "x" * 3_000_000 + "\nb,title,home\n")

    products, rejects = read(tmp_path)

    assert [product.id for product in products] == ["b"]
    assert {reject.reason for reject in rejects} == {RejectReason.BROKEN_ROW}


def test_bytes_that_are_not_utf8_reject_one_row_of_csv(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_bytes(b"\xef\xbb\xbfid,title,category\na,\x83V\x83\x85,home\nb,ok,home\n")

    products, rejects = read(tmp_path)

    assert [product.id for product in products] == ["b"]
    assert [(reject.line, reject.reason) for reject in rejects] == [(2, RejectReason.BAD_TEXT)]


def test_a_symbolic_link_out_of_the_catalogue_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(photo())
    directory = write_jsonl(tmp_path / "shop", {"image": "images/a.png"}, {"id": "b", "image": "loop.png"})
    (directory / "images").mkdir()
    (directory / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    (directory / "loop.png").symlink_to("loop.png")

    unused = [row.unused_photo for row in catalogue.read(directory) if isinstance(row, catalogue.CatalogueRow)]

    assert [photo is not None and photo.reason for photo in unused] == [UnusedPhotoReason.BAD_PATH] * 2


def test_an_unknown_field_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        products, _ = read(write_jsonl(tmp_path, *numbered_rows(3, colour="red")))

    assert len(products) == 3
    assert [record.getMessage() for record in caplog.records] == [
        'products.jsonl:1: the unknown field "colour" is ignored'
    ]


def test_commas_in_a_text_of_tags_are_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(write_table(tmp_path, 'id,category,tags\na,c,x|y\nb,c,"x, y"\nc,c,"z, y"\n'))

    assert [record.getMessage() for record in caplog.records] == [
        'products.csv:3: the tags "x, y" hold commas, but | separates tags'
    ]


def test_the_number_of_warnings_of_unknown_fields_is_bounded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(write_jsonl(tmp_path, *({"id": f"p{n}", f"key {n}": 1} for n in range(150))))

    assert len(caplog.records) == 100


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no catalogue here"),
        ({"products.csv": b"id,category\n", "products.jsonl": b""}, "more than one products file"),
        ({"products.csv": b"name,category\n"}, "no column id"),
        ({"products.csv": b"id,id,category\n"}, "two columns"),
        ({"products.parquet": b"PAR1"}, "products.parquet"),
    ],
)
def test_an_unreadable_catalogue_is_an_error_that_says_why(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    with pytest.raises(BadCatalogue, match=message):
        read(tmp_path)


@pytest.mark.parametrize("damage", [slice(0, 40), slice(10, None)])
def test_a_damaged_gzip_file_is_an_error_that_names_it(tmp_path: Path, damage: slice) -> None:
    file = tmp_path / "t.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[damage])

    with pytest.raises(BadCatalogue, match=r"t\.jsonl\.gz"):
        list(reader.open_table(file).records())


def test_messages_contain_no_control_characters(tmp_path: Path) -> None:
    reject = read_only_reject(write_jsonl(tmp_path, {"id": "a\x1b[31m", "price": "\x1b]0;x\x07"}))

    assert "\x1b" not in str(reject)
    assert str(reject).isprintable()


def test_a_product_with_every_field_at_its_limit_can_be_indexed(tmp_path: Path) -> None:
    longest: dict[str, Any] = {
        "id": "i" * 256, "title": "𠮷" * 1000, "category": "c" * 512, "shop": "s" * 256, "url": "u" * 2048,
        "image": "images/" + "x/" * 506 + "a.png", "description": "d" * 65536, "price": 1e300,
        "currency": "JPY", "in_stock": True, "tags": [f"{number:064}" for number in range(32)],
    }  # fmt: skip
    path = tmp_path / longest["image"]
    path.parent.mkdir(parents=True)
    path.write_bytes(photo())
    (product,), rejects = read(write_jsonl(tmp_path, longest))

    assert not rejects
    table = attributes.validate_products(pa.table({name: [getattr(product, name)] for name in FIELDS}))
    attributes.write_products(tmp_path / "attributes", table)


def test_written_products_are_read_back(tmp_path: Path) -> None:
    products = [
        CatalogueProduct(id="a", category="home", title='花\u2028瓶 "x"', price=3.5, tags=("a|b", "x")),
        CatalogueProduct(id="b", category="x", in_stock=False),
    ]

    assert catalogue.write(tmp_path, products) == 2

    assert read(tmp_path) == (products, [])


def test_a_new_catalogue_does_not_overwrite_another(tmp_path: Path) -> None:
    write_jsonl(tmp_path, {})

    with pytest.raises(BadCatalogue, match="not empty"):
        catalogue.create_directory(tmp_path)
