"""Writes small catalogues for tests."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

VALID_ROW: dict[str, Any] = {
    "id": "a1",
    "title": "Red Shoes",
    "category": "fashion/shoes",
    "price": 1200,
    "currency": "JPY",
    "in_stock": True,
}


def photo(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (40, 30)) -> bytes:
    """A PNG of one colour."""
    file = io.BytesIO()
    Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def write_jsonl(
    directory: Path, *rows: Mapping[str, Any] | str | bytes, photos: Mapping[str, bytes] | None = None
) -> Path:
    """Write a catalogue. A mapping is VALID_ROW with these fields changed; a text or bytes is a raw line."""
    directory.mkdir(parents=True, exist_ok=True)
    lines = [
        row
        if isinstance(row, bytes)
        else row.encode()
        if isinstance(row, str)
        else json.dumps(VALID_ROW | dict(row)).encode()
        for row in rows
    ]
    (directory / "products.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    for name, data in (photos or {}).items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return directory


def write_table(directory: Path, text: str, name: str = "products.csv") -> Path:
    """Write a catalogue with this text as its products file."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / name).write_text(text, encoding="utf-8")
    return directory


def numbered_rows(count: int, **fields: Any) -> Sequence[dict[str, Any]]:
    """Rows with the ids p0, p1, … and the same other fields."""
    return [{"id": f"p{number}", **fields} for number in range(count)]
