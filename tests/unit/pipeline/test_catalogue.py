"""The catalogue format: what is a product, and every reason for which a row is not."""

from __future__ import annotations

import gzip
import json
import logging
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from index.storage import attributes
from lookalike.errors import BadCatalogue
from pipeline import catalogue, table_reader
from pipeline.product import FIELDS, Reason, Reject, Row
from tests.unit.pipeline.catalogues import GOOD, jsonl, many, photo, table


def read(directory: Path) -> tuple[list[Row], list[Reject]]:
    items = list(catalogue.read(directory))
    return [item[1] for item in items if not isinstance(item, Reject)], [i for i in items if isinstance(i, Reject)]


def only_reject(directory: Path) -> Reject:
    rows, rejects = read(directory)
    assert not rows
    assert len(rejects) == 1
    return rejects[0]


def test_a_product_is_read_with_every_field(tmp_path: Path) -> None:
    full = GOOD | {"description": "Soft", "shop": "s1", "image": "images/a.png", "url": "https://s.example/a1"}
    jsonl(tmp_path, full, photos={"images/a.png": photo()})

    assert read(tmp_path) == ([Row(**full)], [])


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_all_three_kinds_of_file_say_the_same(tmp_path: Path, kind: str) -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a1", "title": '赤い 靴, "red"', "category": "fashion/shoes", "price": 1200.5, "in_stock": False,
         "tags": ("colour:red", "women"), "created_at": 1764062700},
        {"id": "a2", "title": "two\nlines", "category": "home", "price": 0.0, "in_stock": True, "tags": (),
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
        table(tmp_path, csv)

    assert read(tmp_path) == ([Row(**row) for row in rows], [])


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"id": ""}, Reason.MISSING_ID),
        ({"id": None}, Reason.MISSING_ID),
        ({"id": "  "}, Reason.MISSING_ID),
        ({"id": "x" * 257}, Reason.LONG_ID),
        ({"id": "靴" * 86}, Reason.LONG_ID),
        ({"id": ["a"]}, Reason.BAD_TEXT),
        ({"id": True}, Reason.BAD_TEXT),
        ({"id": "a\x00b"}, Reason.BAD_TEXT),
        ({"title": "\ud800"}, Reason.BAD_TEXT),
        ({"title": "t" * 1001}, Reason.LONG_TITLE),
        ({"description": "d" * 65537}, Reason.LONG_FIELD),
        ({"shop": "s" * 257}, Reason.LONG_FIELD),
        ({"url": "u" * 2049}, Reason.LONG_FIELD),
        ({"category": ""}, Reason.MISSING_CATEGORY),
        ({"category": None}, Reason.MISSING_CATEGORY),
        ({"category": "fashion//shoes"}, Reason.BAD_CATEGORY),
        ({"category": "/fashion"}, Reason.BAD_CATEGORY),
        ({"price": -1}, Reason.BAD_PRICE),
        ({"price": "cheap"}, Reason.BAD_PRICE),
        ({"price": "1,200"}, Reason.BAD_PRICE),
        ({"price": "1_200"}, Reason.BAD_PRICE),
        ({"price": float("nan")}, Reason.BAD_PRICE),
        ({"price": float("inf")}, Reason.BAD_PRICE),
        ({"price": 10**400}, Reason.BAD_PRICE),
        ({"price": True}, Reason.BAD_PRICE),
        ({"currency": "yen"}, Reason.BAD_CURRENCY),
        ({"in_stock": "perhaps"}, Reason.BAD_STOCK),
        ({"in_stock": 2}, Reason.BAD_STOCK),
        ({"tags": [""]}, Reason.BAD_TAGS),
        ({"tags": ["a", " "]}, Reason.BAD_TAGS),
        ({"tags": "a||b"}, Reason.BAD_TAGS),
        ({"tags": "靴" * 22}, Reason.BAD_TAGS),
        ({"tags": [f"t{number}" for number in range(33)]}, Reason.BAD_TAGS),
        ({"tags": ["a", ["b"]]}, Reason.BAD_TEXT),
        ({"tags": ["\ud800"]}, Reason.BAD_TEXT),
        ({"tags": {"colour": "red"}}, Reason.BAD_TEXT),
        ({"tags": True}, Reason.BAD_TEXT),
        ({"created_at": -1}, Reason.BAD_CREATED_AT),
        ({"revision": -1}, Reason.BAD_REVISION),
        ({"revision": 1.5}, Reason.BAD_REVISION),
        ({"revision": True}, Reason.BAD_REVISION),
        ({"revision": "new"}, Reason.BAD_REVISION),
        ({"revision": 1 << 64}, Reason.BAD_REVISION),
        ({"revision": "9" * 5000}, Reason.BAD_REVISION),
        ({"created_at": 1.5}, Reason.BAD_CREATED_AT),
        ({"created_at": True}, Reason.BAD_CREATED_AT),
        ({"created_at": "yesterday"}, Reason.BAD_CREATED_AT),
        ({"created_at": "1969-12-31"}, Reason.BAD_CREATED_AT),
        ({"created_at": 1_764_062_700_000}, Reason.BAD_CREATED_AT),  # Milliseconds.
        ({"created_at": "9" * 5000}, Reason.BAD_CREATED_AT),
        ({"image": "/etc/passwd"}, Reason.BAD_IMAGE_PATH),
        ({"image": "../a.png"}, Reason.BAD_IMAGE_PATH),
        ({"image": "images/../../a.png"}, Reason.BAD_IMAGE_PATH),
        ({"image": "..\\a.png"}, Reason.BAD_IMAGE_PATH),
        ({"image": "https://s.example/a.png"}, Reason.BAD_IMAGE_PATH),
        ({"image": "."}, Reason.BAD_IMAGE_PATH),
        ({"image": "images/none.png"}, Reason.MISSING_IMAGE),
        ({"image": "images"}, Reason.MISSING_IMAGE),
        ({"image": "images/a.png/b.png"}, Reason.MISSING_IMAGE),
        ({"image": "n" * 300}, Reason.BAD_IMAGE_PATH),
        ({"image": "x/" * 512}, Reason.MISSING_IMAGE),
    ],
)
def test_a_bad_field_is_a_reject_with_its_reason(tmp_path: Path, fields: dict[str, Any], reason: Reason) -> None:
    jsonl(tmp_path, fields, photos={"images/a.png": photo()})

    reject = only_reject(tmp_path)

    assert (reject.file, reject.line, reject.reason) == ("products.jsonl", 1, reason)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"id": 17}, {"id": "17"}),
        ({"id": "x" * 256}, {"id": "x" * 256}),
        ({"title": "靴" * 1000}, {"title": "靴" * 1000}),
        ({"title": None}, {"title": ""}),
        ({"price": "12.50"}, {"price": 12.5}),
        ({"price": None}, {"price": 0.0}),
        ({"in_stock": "NO"}, {"in_stock": False}),
        ({"in_stock": None}, {"in_stock": True}),
        ({"image": None}, {"image": ""}),
        ({"category": " home "}, {"category": "home"}),
        ({"created_at": None}, {"created_at": 0}),
        ({"revision": ""}, {"revision": 0}),
        ({"revision": "17"}, {"revision": 17}),
        ({"revision": (1 << 64) - 1}, {"revision": (1 << 64) - 1}),
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
def test_what_a_field_may_be(tmp_path: Path, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    rows, rejects = read(jsonl(tmp_path, fields))

    assert not rejects
    assert {name: getattr(rows[0], name) for name in expected} == expected


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[1]",
        "null",
        b'{"id": "\xff"}',
        "[" * 100_000,
        '{"id": "x", "price": ' + "9" * 5000 + "}",
        '"' + "x" * (1 << 20),
    ],
)
def test_a_broken_line_is_a_reject_and_the_next_line_is_read(tmp_path: Path, line: str | bytes) -> None:
    rows, rejects = read(jsonl(tmp_path, line, {"id": "next"}))

    assert [(reject.line, reject.reason) for reject in rejects] == [(1, Reason.BROKEN_ROW)]
    assert [row.id for row in rows] == ["next"]


def test_of_rows_with_one_id_the_first_good_one_is_taken(tmp_path: Path) -> None:
    rows, rejects = read(jsonl(tmp_path, {"price": -1}, {"title": "second"}, {"title": "third"}, "", {"title": "last"}))

    assert [row.title for row in rows] == ["second"]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (1, Reason.BAD_PRICE),
        (3, Reason.DUPLICATE_ID),
        (5, Reason.DUPLICATE_ID),
    ]
    assert "line 2" in rejects[1].detail


def test_a_line_of_csv_is_named_by_where_it_begins(tmp_path: Path) -> None:
    table(tmp_path, 'id,title,category\na,"one\ntwo\nthree",home\nb,short\nc,"open" quote,home\n\nd,last,home\ne,"x')

    rows, rejects = read(tmp_path)

    assert [row.id for row in rows] == ["a", "d"]
    assert [(reject.line, reject.detail) for reject in rejects[:1]] == [(5, "2 columns, not 3")]
    assert [(reject.line, reject.reason) for reject in rejects] == [
        (5, Reason.BROKEN_ROW),
        (6, Reason.BROKEN_ROW),
        (9, Reason.BROKEN_ROW),
    ]


def test_a_cell_without_end_is_bounded(tmp_path: Path) -> None:
    table(tmp_path, 'id,title,category\na,"' + "x" * 3_000_000 + "\nb,title,home\n")

    rows, rejects = read(tmp_path)

    assert [row.id for row in rows] == ["b"]
    assert {reject.reason for reject in rejects} == {Reason.BROKEN_ROW}


def test_bytes_that_are_no_utf8_spoil_one_row_of_csv(tmp_path: Path) -> None:
    (tmp_path / "products.csv").write_bytes(b"\xef\xbb\xbfid,title,category\na,\x83V\x83\x85,home\nb,ok,home\n")

    rows, rejects = read(tmp_path)

    assert [row.id for row in rows] == ["b"]
    assert [(reject.line, reject.reason) for reject in rejects] == [(2, Reason.BAD_TEXT)]


def test_a_link_that_leads_out_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(photo())
    directory = jsonl(tmp_path / "shop", {"image": "images/a.png"}, {"id": "b", "image": "loop.png"})
    (directory / "images").mkdir()
    (directory / "images" / "a.png").symlink_to(tmp_path / "secret.png")
    (directory / "loop.png").symlink_to("loop.png")

    rejects = read(directory)[1]

    assert rejects[0].reason is Reason.BAD_IMAGE_PATH
    assert rejects[1].reason in (Reason.BAD_IMAGE_PATH, Reason.MISSING_IMAGE)


def test_an_unknown_field_is_warned_of_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        rows, _ = read(jsonl(tmp_path, *many(3, colour="red")))

    assert len(rows) == 3
    assert [record.getMessage() for record in caplog.records] == [
        'products.jsonl:1: the field "colour" is no product\'s and is passed over'
    ]


def test_warnings_of_unknown_fields_end(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    read(jsonl(tmp_path, *({"id": f"p{n}", f"key {n}": 1} for n in range(150))))

    assert len(caplog.records) == 100


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "no catalogue here"),
        ({"products.csv": b"id,category\n", "products.jsonl": b""}, "which one"),
        ({"products.csv": b"name,category\n"}, "no column id"),
        ({"products.csv": b"id,id,category\n"}, "two columns"),
        ({"products.parquet": b"PAR1"}, "products.parquet"),
    ],
)
def test_a_catalogue_that_cannot_be_read_is_the_operators_to_mend(
    tmp_path: Path, files: dict[str, bytes], said: str
) -> None:
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)

    with pytest.raises(BadCatalogue, match=said):
        read(tmp_path)


@pytest.mark.parametrize("damage", [slice(0, 40), slice(10, None)])
def test_a_damaged_gzip_is_the_operators_to_mend(tmp_path: Path, damage: slice) -> None:
    file = tmp_path / "t.jsonl.gz"
    file.write_bytes(gzip.compress(b'{"id": 1}\n' * 1000)[damage])

    with pytest.raises(BadCatalogue, match=r"t\.jsonl\.gz"):
        list(table_reader.records(file))


def test_a_message_cannot_play_tricks_on_a_terminal(tmp_path: Path) -> None:
    reject = only_reject(jsonl(tmp_path, {"id": "a\x1b[31m", "price": "\x1b]0;x\x07"}))

    assert "\x1b" not in str(reject)
    assert str(reject).isprintable()


def test_a_product_at_every_bound_fits_an_index(tmp_path: Path) -> None:
    longest: dict[str, Any] = {
        "id": "i" * 256, "title": "𠮷" * 1000, "category": "c" * 512, "shop": "s" * 256, "url": "u" * 2048,
        "image": "images/" + "x/" * 506 + "a.png", "description": "d" * 65536, "price": 1e300,
        "currency": "JPY", "in_stock": True, "tags": [f"{number:064}" for number in range(32)],
    }  # fmt: skip
    path = tmp_path / longest["image"]
    path.parent.mkdir(parents=True)
    path.write_bytes(photo())
    (row,), rejects = read(jsonl(tmp_path, longest))

    assert not rejects
    products = attributes.checked(pa.table({name: [getattr(row, name)] for name in FIELDS}))
    attributes.write(tmp_path / "attributes", products)


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    rows = [
        Row(id="a", category="home", title='花\u2028瓶 "x"', price=3.5, tags=("a|b", "x")),
        Row(id="b", category="x", in_stock=False),
    ]

    assert catalogue.write(tmp_path, rows) == 2

    assert read(tmp_path) == (rows, [])


def test_a_new_catalogue_is_not_made_over_another(tmp_path: Path) -> None:
    jsonl(tmp_path, {})

    with pytest.raises(BadCatalogue, match="not empty"):
        catalogue.new_directory(tmp_path)
