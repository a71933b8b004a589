"""Photos by tasks of an engine: the same products, reasons and vectors as where this process decodes them."""

from __future__ import annotations

import dataclasses
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path

import numpy as np
import pytest

from encoders.types import Embeddings
from lookalike.errors import OperatorError
from lookalike.runtime.engine import Item, Result, TaskNeeds
from lookalike.runtime.local_engine import LocalEngine
from pipeline import photo_tasks, photos
from pipeline.catalogue import open_products
from pipeline.image_encoding import PhotoEncoder, Pixels
from pipeline.photo_tasks import BATCH_ROWS, TaskEncoder
from pipeline.photos import PhotoSources, ProductWithPhoto
from tests.unit.pipeline.catalogues import numbered_rows, photo, write_jsonl

SIDE_PX = 32


async def mean_colours(pixels: Pixels) -> Embeddings:
    return Embeddings(vectors=pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32), encoder="fake-1")


@asynccontextmanager
async def connect() -> AsyncIterator[PhotoEncoder]:
    yield PhotoEncoder(encode=mean_colours, input_px=SIDE_PX)


ENCODER = TaskEncoder(connect=connect, fingerprint="fake-1")


def catalogue(directory: Path) -> Path:
    """More rows than a batch has: good photos, equal ones, a broken one, a missing one, a URL, none, a bad row."""
    files = {f"{number}.png": photo((number, 0, 0)) for number in range(200)}
    rows = [{**row, "image": f"{number}.png"} for number, row in enumerate(numbered_rows(BATCH_ROWS + 20))]
    odd = [
        {"id": "same", "image": "copy.png"},
        {"id": "broken", "image": "broken.png"},
        {"id": "also broken", "image": "also-broken.png"},
        {"id": "missing", "image": "gone.png"},
        {"id": "url", "image": "https://shop.example/1.jpg"},
        {"id": "none"},
        {"id": "bad", "price": "much"},
    ]
    broken = {"broken.png": photo()[:60], "also-broken.png": photo()[:60]}
    return write_jsonl(directory, *rows, *odd, photos={**files, "copy.png": photo((0, 0, 0)), **broken})


def read_by_tasks(directory: Path, **options: object) -> list[ProductWithPhoto | object]:
    settings = {"engine": LocalEngine(threads=2), "encoder": ENCODER, "side_px": SIDE_PX, **options}
    return list(photo_tasks.read_products(PhotoSources(directory=directory), open_products(directory), **settings))  # type: ignore[arg-type]


def without_pixels(items: Iterable[object]) -> list[object]:
    return [
        dataclasses.replace(item, photo=dataclasses.replace(item.photo, pixels=None, vector=None))
        if isinstance(item, ProductWithPhoto) and item.photo
        else item
        for item in items
    ]


def test_products_and_reasons_are_those_of_this_process(tmp_path: Path) -> None:
    directory = catalogue(tmp_path)
    here = list(photos.read_products(PhotoSources(directory=directory), open_products(directory), side_px=SIDE_PX))
    assert without_pixels(read_by_tasks(directory)) == without_pixels(here)


@pytest.mark.parametrize("has_files", [True, False])
def test_photos_that_are_known_are_not_opened_and_others_need_a_file(tmp_path: Path, has_files: bool) -> None:
    directory = catalogue(tmp_path)
    digests = {"url": "0" * 32, "broken": "1" * 32, "p3": "2" * 32}
    sources = PhotoSources(
        directory=directory if has_files else None,
        known=lambda products: {each.id: digests[each.id] for each in products if each.id in digests},
        as_stated=True,
    )
    table = open_products(directory)
    here = list(photos.read_products(sources, table, side_px=SIDE_PX))
    by_tasks = photo_tasks.read_products(
        sources, table, engine=LocalEngine(threads=2), encoder=ENCODER, side_px=SIDE_PX
    )
    assert without_pixels(by_tasks) == without_pixels(here)
    items = {item.product.id: item for item in here if isinstance(item, ProductWithPhoto)}
    known = {id: item.photo.digest for id, item in items.items() if item.photo and id in digests}
    assert known == digests
    assert (items["p4"].photo is not None) is has_files
    assert items["also broken"].product.image == "also-broken.png"  # As it is stated.


@pytest.mark.parametrize("threads", [1, 3])
def test_each_photo_has_the_vector_of_its_own_pixels(tmp_path: Path, threads: int) -> None:
    directory = catalogue(tmp_path)
    checked = 0
    here = photos.read_products(PhotoSources(directory=directory), open_products(directory), side_px=SIDE_PX)
    for item, pixels in zip(read_by_tasks(directory, engine=LocalEngine(threads=threads)), here, strict=True):
        if isinstance(item, ProductWithPhoto) and item.photo is not None:
            assert isinstance(pixels, ProductWithPhoto)
            assert pixels.photo is not None
            assert pixels.photo.pixels is not None
            assert item.photo.vector is not None
            np.testing.assert_allclose(item.photo.vector, pixels.photo.pixels.mean(axis=(0, 1)), atol=1e-3)
            checked += 1
    assert checked == BATCH_ROWS + 21


class CountingEngine(LocalEngine):
    """Counts what tasks are given."""

    def __init__(self) -> None:
        super().__init__(threads=2)
        self.new: list[int] = []

    def map(self, task: Callable[[Item], Result], items: Iterable[Item], needs: TaskNeeds):  # type: ignore[no-untyped-def]
        def counted() -> Iterable[Item]:
            for item in items:
                if isinstance(item, photo_tasks.NewPhotos):
                    self.new.append(len(item.paths.images))
                yield item

        return super().map(task, counted(), needs)


def test_a_photo_whose_vector_is_stored_is_neither_decoded_nor_encoded(tmp_path: Path) -> None:
    directory = catalogue(tmp_path)
    stored = {
        item.photo.digest for item in read_by_tasks(directory) if isinstance(item, ProductWithPhoto) and item.photo
    }
    engine = CountingEngine()

    again = read_by_tasks(directory, stored_digests=stored, engine=engine)

    assert sum(engine.new) == 2  # The broken ones.
    found = [item.photo for item in again if isinstance(item, ProductWithPhoto) and item.photo]
    assert len(found) == BATCH_ROWS + 21
    assert all(each.vector is None for each in found)


def test_without_an_encoder_photos_are_decoded_to_know_which_can_be_used(tmp_path: Path) -> None:
    directory = catalogue(tmp_path)
    here = list(photos.read_products(PhotoSources(directory=directory), open_products(directory), side_px=SIDE_PX))
    assert without_pixels(read_by_tasks(directory, encoder=None)) == without_pixels(here)


def test_a_model_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    encoder = dataclasses.replace(ENCODER, fingerprint="fake-0")
    with pytest.raises(OperatorError, match="the image model changed from fake-0 to fake-1"):
        read_by_tasks(catalogue(tmp_path), encoder=encoder)
