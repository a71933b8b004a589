"""Any file is a catalogue, whose rows are products or rejected with a reason, or is refused by name; nothing else."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
import zipfile
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import strategies as st

from lookalike.errors import BadCatalogue, OperatorError
from pipeline import archive, catalogue
from pipeline.catalogue import CatalogueRow
from pipeline.product import RejectedRow
from tests.fuzz.budget import OUTCOMES, fuzz
from tests.fuzz.mutations import damaged

ROWS = [
    {"id": f"p{row}", "title": ("赤い靴", 'a "red" shoe', "mug, white")[row % 3], "category": "a/b", "price": row + 0.5}
    for row in range(12)
]
CSV = "id,title,category,price,tags\r\n" + "".join(
    f'p{row},"red ""dress"" {row}\n in two lines",fashion/dresses,{row}.50,red|new\r\n' for row in range(12)
)


def _jsonl() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()


def _parquet(compression: str) -> bytes:
    buffer = io.BytesIO()
    columns: dict[str, Any] = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    columns["created_at"] = [datetime(2026, 1, 1 + row) for row in range(12)]
    columns["tags"] = [["a", "b"] if row % 2 else None for row in range(12)]
    pq.write_table(pa.table(columns), buffer, compression=compression)
    return buffer.getvalue()


def _xlsx() -> bytes:
    book, buffer = openpyxl.Workbook(), io.BytesIO()
    sheet = book.active
    assert sheet is not None
    sheet.append(list(ROWS[0]))
    for row in ROWS:
        sheet.append(list(row.values()))
    sheet.append(["p99", datetime(2026, 1, 1), True, None])
    book.save(buffer)
    return buffer.getvalue()


def _rezipped(data: bytes, name: str, change: Callable[[bytes], bytes]) -> bytes:
    """The zip file with one of its files changed, and the checksums right."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as new:
        for member in old.namelist():
            new.writestr(member, change(old.read(member)) if member == name else old.read(member))
    return buffer.getvalue()


TABLES = {
    "products.csv": CSV.encode(),
    "products.tsv": CSV.replace(",", "\t").encode("utf-16"),
    "products.txt": CSV.encode("cp932", errors="replace"),
    "products.jsonl": _jsonl(),
    "products.jsonl.gz": gzip.compress(_jsonl()),
    "products.parquet": _parquet("none"),
    "products.xlsx": _xlsx(),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("catalogue")


@pytest.mark.parametrize("name", TABLES)
@fuzz(80, data=st.data())
def test_any_table_is_read_or_refused(folder: Path, name: str, data: Any) -> None:
    _read(folder, name, data.draw(damaged(TABLES[name])))


@fuzz(60, data=st.data())
def test_any_sheet_of_an_excel_file_is_read_or_refused(folder: Path, data: Any) -> None:
    """Damage within the parts of the file, which the checksums of a zip file would show."""
    whole = TABLES["products.xlsx"]
    with zipfile.ZipFile(io.BytesIO(whole)) as parts:
        name = data.draw(st.sampled_from(sorted(parts.namelist())))
        part = data.draw(damaged(parts.read(name)))
    _read(folder, "products.xlsx", _rezipped(whole, name, lambda _: part))


VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(("\0", "\ud800", "9" * 400, "1e999", "-0", "x" * 70_000, 10**400, "2026-13-45", "\u202e")),
    ),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
FIELDS = ("id", "title", "description", "category", "shop", "price", "currency", "in_stock", "image", "url", "tags")
TIMES = ("created_at", "expires_at", "revision", "other")


@fuzz(150, rows=st.lists(st.dictionaries(st.sampled_from((*FIELDS, *TIMES)), VALUES), max_size=4))
def test_any_values_are_a_product_or_a_rejected_row(folder: Path, rows: list[dict[str, Any]]) -> None:
    lines = [json.dumps({"id": f"p{number}", "title": "t", "category": "c", **row}) for number, row in enumerate(rows)]
    read = _read(folder, "products.jsonl", "\n".join(lines).encode())
    assert len(read) == len(lines)


def _read(folder: Path, name: str, data: bytes) -> list[CatalogueRow | RejectedRow]:
    for path in folder.iterdir():
        path.unlink()
    (folder / name).write_bytes(data)
    rows: list[CatalogueRow | RejectedRow] = []
    try:
        rows += catalogue.read(folder)
    except OperatorError as error:
        OUTCOMES[f"{name} refused"] += 1
        assert str(error)  # noqa: PT017  # most damages are not refused
    else:
        OUTCOMES[f"{name} read"] += 1
    return rows


def _zip(compression: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as file:
        file.writestr("products.csv", CSV)
        file.writestr("images/靴.jpg", b"\xff\xd8\xff" * 30)
        file.writestr("../outside.jpg", b"x")
    return buffer.getvalue()


def _tar(mode: Any) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, content in (("images/a.jpg", b"a" * 600), ("../outside.jpg", b"x"), ("./b.png", b"b")):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


ARCHIVES = {
    "stored.zip": _zip(zipfile.ZIP_STORED),
    "deflated.zip": _zip(zipfile.ZIP_DEFLATED),
    "lzma.zip": _zip(zipfile.ZIP_LZMA),
    "photos.tar": _tar("w"),
    "photos.tar.gz": _tar("w:gz"),
    "photos.tar.xz": _tar("w:xz"),
}


@pytest.mark.parametrize("size", [0, 3, 9, 20])
def test_an_archive_that_ends_within_its_header_is_refused(tmp_path: Path, size: int) -> None:
    (tmp_path / "photos.tar.gz").write_bytes(ARCHIVES["photos.tar.gz"][:size])
    with pytest.raises(BadCatalogue, match=r"photos\.tar\.gz: "):
        archive.photo_names(tmp_path / "photos.tar.gz")


@pytest.mark.parametrize("name", ARCHIVES)
@fuzz(60, data=st.data())
def test_any_archive_is_read_or_refused_and_writes_nothing_elsewhere(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, name: str, data: Any
) -> None:
    place = tmp_path_factory.getbasetemp() / "archives"
    target = place / "target"
    target.mkdir(parents=True, exist_ok=True)
    for each in place.rglob("*"):
        if each.is_file():
            each.unlink()
    (place / name).write_bytes(data.draw(damaged(ARCHIVES[name])))
    try:
        names = archive.photo_names(place / name)
        if found := [each for each in ("images/a.jpg", "b.png", "images/靴.jpg") if names.find(each)]:
            archive.copy_photos(place / name, {names.find(each): target / str(at) for at, each in enumerate(found)})
        if name.endswith(".zip"):
            archive.unpack_table(place / name, target)
    except OperatorError as error:
        assert str(error)  # noqa: PT017  # most damages are not refused
    assert {each.relative_to(place).parts[0] for each in place.rglob("*")} <= {name, "target"}
