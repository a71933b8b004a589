"""`lookalike catalog write` against a small real gRPC server."""

from __future__ import annotations

import json
import sys
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from lookalike.v1.catalog_pb2 import BatchWriteRequest, Change, PatchRequest, RemoveRequest, UpsertRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, SpaceVector
from lookalike.vectors import pack
from tests.unit.lookalike.cli.catalog.conftest import FakeCatalog


def sent(gateway: FakeCatalog) -> list[Change]:
    return [
        change for request in gateway.requests if isinstance(request, BatchWriteRequest) for change in request.changes
    ]


async def test_each_line_is_a_change_and_those_without_a_revision_have_that_of_the_flag(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "boots.jpg"
    photo.write_bytes(b"photo")
    rows: list[dict[str, object]] = [
        {"patch": {"id": "p-17", "price": None, "in_stock": False, "tags": ["a"], "image": "1.jpg", "revision": 8}},
        {"upsert": {"id": "p-18", "title": "boots", "created_at": "2025-11-25", "photo": str(photo), "encode": True}},
        {"upsert": {"id": "p-19", "price": 5, "vectors": {"image": [0.5, 1]}, "keep_vectors": True}},
        {"remove": {"id": "p-20", "revision": "9"}},
    ]
    file = tmp_path / "changes.jsonl"
    file.write_text("\ufeff" + "\n\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    assert await gateway.shell("write", str(file), "--revision", "7") == 0
    vector = SpaceVector(space=SPACE_IMAGE, vector=pack(np.array([0.5, 1], np.float32)))
    boots = Product(id="p-18", title="boots", created_at=1_764_028_800)
    assert sent(gateway) == [
        Change(
            patch=PatchRequest(
                product=Product(id="p-17", in_stock=False, tags=["a"], image="1.jpg"),
                update_mask=FieldMask(paths=["price", "in_stock", "tags", "image"]),
                revision=8,
            )
        ),
        Change(upsert=UpsertRequest(product=boots, revision=7, encode=True, image=b"photo")),
        Change(
            upsert=UpsertRequest(product=Product(id="p-19", price=5), revision=7, vectors=[vector], keep_vectors=True)
        ),
        Change(remove=RemoveRequest(product_id="p-20", revision=9)),
    ]
    assert capsys.readouterr().out == "4 changes applied\n"


async def test_changes_come_from_standard_input_in_batches(
    gateway: FakeCatalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = "".join(f'{{"remove": {{"id": "p-{number}"}}}}\n' for number in range(7))
    monkeypatch.setattr(sys, "stdin", StringIO(lines))
    assert await gateway.shell("write", "-", "--batch", "3") == 0
    assert [len(request.changes) for request in gateway.requests if isinstance(request, BatchWriteRequest)] == [3, 3, 1]


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("no JSON", "line: Expecting value"),
        ("[" * 100_000, "line: "),
        ('["patch"]', 'line: expected {"upsert": {"id": …}}'),
        ('{"patch": {"price": 1}}', 'line: expected {"upsert": {"id": …}}'),
        ('{"drop": {"id": "p-1"}}', 'line: expected {"upsert": {"id": …}}'),
        ('{"patch": {"id": null, "price": 1}}', "id: the product has no id"),
        ('{"patch": {"id": "p-1", "colour": "red"}}', "product.colour: no such field"),
        ('{"patch": {"id": "p-1", "price": "cheap"}}', "product.price: "),
        ('{"patch": {"id": "p-1", "revision": -1}}', 'revision: "-1" is not an unsigned'),
        ('{"patch": {"id": "p-1", "keep_vectors": true}}', "product.keep_vectors: no such field"),
        ('{"patch": {"id": "p-1", "encode": "yes"}}', "patch: "),
        ('{"upsert": {"id": "p-1", "vectors": {"image": "x"}}}', "upsert: "),
        ('{"upsert": {"id": "p-1", "vectors": {"image": [[1, 2]]}}}', "vector: expected one vector"),
        ('{"upsert": {"id": "p-1", "vectors": [1, 2]}}', "upsert: "),
        ('{"upsert": {"id": "p-1", "photo": "/no/such.jpg"}}', "image: /no/such.jpg: No such file"),
        ('{"remove": {"id": "p-1", "price": 1}}', "remove: has only an id and a revision, not price"),
        ('{"patch": {"id": "p-1", "price": -1}}', "product.price: is below 0"),
    ],
)
async def test_a_line_that_is_no_valid_change_is_named_and_the_others_are_made(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str], line: str, error: str
) -> None:
    file = tmp_path / "changes.jsonl"
    good = '{"patch": {"id": "p-2", "price": 1}}'
    file.write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
    assert await gateway.shell("write", str(file), "--batch", "1") == 1
    output = capsys.readouterr()
    assert output.err.startswith(f"line 2: {error}")
    assert output.out == "2 changes applied; 1 failed\n"
    assert [change.patch.product.id for change in sent(gateway)].count("p-2") == 2


async def test_the_outcomes_as_json_have_counts_errors_and_notices(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "changes.jsonl"
    patches: list[dict[str, object]] = [
        {"id": "p-1", "price": 1, "revision": 1},
        {"id": "p-2", "title": "x" * 1001},
        {"id": "p-3", "price": -1},
    ]
    file.write_text("".join(json.dumps({"patch": patch}) + "\n" for patch in patches), encoding="utf-8")
    assert await gateway.shell("write", str(file), "--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "applied": 1,
        "not_applied": 1,
        "failed": 1,
        "errors": [{"line": 3, "error": "product.price: is below 0"}],
        "notices": [{"line": 2, "notice": "title: cut from 1001 to 1000 characters"}],
    }


async def test_no_more_than_a_hundred_errors_are_printed_and_all_are_counted(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "changes.jsonl"
    file.write_text("no JSON\n" * 150, encoding="utf-8")
    assert await gateway.shell("write", str(file)) == 1
    output = capsys.readouterr()
    assert (len(output.err.splitlines()), output.out) == (100, "0 changes applied; 150 failed\n")


async def test_a_stream_that_breaks_says_with_which_line_to_go_on(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "changes.jsonl"
    file.write_text("\n".join(f'{{"remove": {{"id": "p-{number}"}}}}' for number in range(1, 8)), encoding="utf-8")
    gateway.breaks_at = "p-5"
    assert await gateway.shell("write", str(file), "--batch", "2") == 1
    errors = capsys.readouterr().err
    assert "4 changes applied; to go on: --after-line 4\n" in errors
    assert "error: the stream broke" in errors
    gateway.breaks_at = ""
    gateway.requests.clear()
    assert await gateway.shell("write", str(file), "--after-line", "4") == 0
    assert [change.remove.product_id for change in sent(gateway)] == ["p-5", "p-6", "p-7"]


async def test_a_file_that_cannot_be_read_is_exit_status_2(
    gateway: FakeCatalog, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert await gateway.shell("write", str(tmp_path / "none.jsonl")) == 2
    assert "FILE: " in capsys.readouterr().err
    (tmp_path / "latin.jsonl").write_bytes('{"remove": {"id": "Schühe"}}'.encode("latin-1"))
    assert await gateway.shell("write", str(tmp_path / "latin.jsonl")) == 2
    assert "FILE: not UTF-8" in capsys.readouterr().err
    (tmp_path / "empty.jsonl").touch()
    assert await gateway.shell("write", str(tmp_path / "empty.jsonl"), "--batch", "0") == 2
    assert "batch: 0 is not in 1..1000" in capsys.readouterr().err
