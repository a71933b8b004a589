"""`lookalike update` of minimal and odd catalogues: an index of unit vectors, or a clear error."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from encoders.types import Embeddings
from lookalike.errors import BadArtifact, BadCatalogue
from pipeline.image_encoding import PhotoEncoder, Pixels
from pipeline.update.options import UpdateOptions
from tests.e2e.updates import ImageModel, catalogue_of, read_index_vectors, update
from tests.unit.pipeline.catalogues import numbered_rows, photo, write_jsonl

COLOURS = ("red", "blue", "green", "white", "black")
RGB = ((200, 30, 30), (40, 60, 200), (30, 160, 60), (250, 250, 250), (5, 5, 5))
PHOTOS = {f"{colour}.png": photo(rgb) for colour, rgb in zip(COLOURS, RGB, strict=True)}
DRESSES = [
    {"id": f"{colour}-{n}", "title": f"{colour} {thing}", "category": "fashion", "image": f"{colour}.png"}
    for n, thing in enumerate(("cotton dress", "silk dress", "shirt", "hat"))
    for colour in COLOURS
]
EMOJI = ("👗", "🎉👟✨", "★☆♪ !!!", "🧦🧦")


def rows_without(*fields: str, rows: Sequence[Mapping[str, Any]] = DRESSES) -> list[dict[str, Any]]:
    return [{**row, **dict.fromkeys(fields, "")} for row in rows]


def rows_with_titles(titles: Sequence[str], rows: Sequence[Mapping[str, Any]] = DRESSES) -> list[dict[str, Any]]:
    return [{**row, "title": titles[i % len(titles)]} for i, row in enumerate(rows)]


# Rows, and the expected number of vectors in each space.
CATALOGUES: dict[str, tuple[Sequence[Mapping[str, Any] | str], dict[str, int]]] = {
    "one product": (DRESSES[:1], {"image": 1, "text": 1}),
    "one product without a photo": (rows_without("image", rows=DRESSES[:1]), {"text": 1}),
    "one product without a title": (rows_without("title", rows=DRESSES[:1]), {"image": 1}),
    "one product among bad rows": ([*DRESSES[:1], *numbered_rows(3, price=-1), "{"], {"image": 1, "text": 1}),
    "one category": (DRESSES, {"image": 20, "text": 20}),
    "one category, one photo, one title": (
        [{**row, "title": "dress", "image": "red.png"} for row in DRESSES],
        {"image": 20, "text": 20},
    ),
    "no photo": (rows_without("image"), {"text": 20}),
    "no title": (rows_without("title"), {"image": 20}),
    "titles of emoji alone": (rows_with_titles(EMOJI), {"image": 20}),
    "titles of emoji alone, except one": (
        [*DRESSES[:1], *rows_with_titles(EMOJI, DRESSES[1:])],
        {"image": 20, "text": 1},
    ),
    "titles of one unknown script": (rows_with_titles(["ᚠᚢᚦᚨᚱᚲ", "ქართული ტექსტი"]), {"image": 20, "text": 20}),
    "one half with photos only, the other with titles only": (
        [*rows_without("title", rows=DRESSES[:10]), *rows_without("image", rows=DRESSES[10:])],
        {"image": 10, "text": 10},
    ),
}


@pytest.fixture
def options(tmp_path: Path) -> UpdateOptions:
    return UpdateOptions(
        catalogue=tmp_path / "shop",
        location=tmp_path / "index",
        artifacts=tmp_path / "encoders",
        connect_encoder=ImageModel().connected,
        feature_store=tmp_path / "store",
    )


@pytest.mark.parametrize("name", CATALOGUES)
async def test_a_minimal_catalogue_is_indexed_with_unit_vectors(options: UpdateOptions, name: str) -> None:
    rows, expected = CATALOGUES[name]
    write_jsonl(catalogue_of(options), *rows, photos=PHOTOS)

    await update(options)

    assert {space: len(vectors) for space, vectors in read_index_vectors(options.location).items()} == expected


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="no product"),
        pytest.param(rows_without("title", "image", rows=DRESSES[:1]), id="one product without photo and title"),
        pytest.param(rows_without("image", rows=rows_with_titles(EMOJI)), id="emoji and no photo"),
        pytest.param(numbered_rows(3, price=-1), id="bad rows alone"),
    ],
)
async def test_a_catalogue_without_photos_and_words_is_an_error_and_builds_no_version(
    options: UpdateOptions, rows: Sequence[Mapping[str, Any]]
) -> None:
    write_jsonl(catalogue_of(options), *rows)

    with pytest.raises(BadCatalogue, match=r"no (valid )?product"):
        await update(options)

    assert not (options.location / "CURRENT").exists()


@pytest.mark.parametrize(("value", "message"), [(np.nan, "not finite"), (np.inf, "not finite"), (0.0, "is zero")])
async def test_invalid_vectors_from_the_image_model_are_an_error_and_build_no_version(
    options: UpdateOptions, value: float, message: str
) -> None:
    write_jsonl(catalogue_of(options), *DRESSES, photos=PHOTOS)

    async def broken(pixels: Pixels) -> Embeddings:
        return Embeddings(vectors=np.full((len(pixels), 8), value, np.float32), encoder="fake-000000000002")

    @asynccontextmanager
    async def connected() -> AsyncIterator[PhotoEncoder]:
        yield PhotoEncoder(encode=broken, input_px=64)

    with pytest.raises(BadArtifact, match=rf"image: vector \d+ .*{message}"):
        await update(replace(options, connect_encoder=connected))

    assert not (options.location / "CURRENT").exists()
