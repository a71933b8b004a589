"""Encoding photos: bounded, patient, once each, and never two models in one index."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from encoders.types import Embeddings
from lookalike.errors import BadCatalogue, DeadlineExceeded, OperatorError, Overloaded, Unavailable
from pipeline import encoding
from pipeline.encoding import BATCH, IN_FLIGHT, TRIES, Pixels, encode_photos, patiently
from pipeline.features import Features
from pipeline.photos import Photo


class Encoder:
    """Answers each picture with its mean colour; counts."""

    def __init__(self, fingerprint: str = "fake-1", errors: Iterator[Exception] | None = None) -> None:
        self.fingerprint = fingerprint
        self.errors = errors or iter(())
        self.batches: list[int] = []
        self.under_way = 0
        self.most_under_way = 0

    async def __call__(self, pixels: Pixels) -> Embeddings:
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        self.batches.append(len(pixels))
        await asyncio.sleep(0.001)
        self.under_way -= 1
        if (error := next(self.errors, None)) is not None:
            raise error
        vectors = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)
        return Embeddings(vectors=vectors, encoder=self.fingerprint)


def photos(count: int, *, start: int = 0) -> list[Photo]:
    return [
        Photo(f"{number:032x}", np.full((224, 224, 3), number % 256, np.uint8))
        for number in range(start, start + count)
    ]


async def test_every_photo_is_encoded_in_batches_with_few_under_way(tmp_path: Path) -> None:
    encoder, features = Encoder(), Features(tmp_path / "s", 3)

    assert await encode_photos(encoder, photos(200), features, "fake-1") == 200

    assert sum(encoder.batches) == 200
    assert max(encoder.batches) == BATCH
    assert encoder.most_under_way == IN_FLIGHT
    gathered = features.gathered([photo.digest for photo in photos(200)], tmp_path / "v")
    np.testing.assert_allclose(gathered[:, 0], np.arange(200), atol=1e-3)


async def test_a_picture_is_encoded_once_and_a_known_one_never(tmp_path: Path) -> None:
    encoder, features = Encoder(), Features(tmp_path, 3)
    known = Photo(f"{7:032x}", None)

    assert await encode_photos(encoder, [*photos(3), *photos(3), known], features, "fake-1") == 3
    assert await encode_photos(encoder, photos(4), features, "fake-1") == 1


async def test_no_more_photos_are_taken_than_there_is_room_for(tmp_path: Path) -> None:
    taken, gate, lock = 0, asyncio.Event(), threading.Lock()

    def source() -> Iterator[Photo]:
        nonlocal taken
        for photo in photos(20 * BATCH):
            with lock:
                taken += 1
            yield photo

    async def held(pixels: Pixels) -> Embeddings:
        await gate.wait()
        return await Encoder()(pixels)

    running = asyncio.create_task(encode_photos(held, source(), Features(tmp_path, 3), "fake-1"))
    await asyncio.sleep(0.1)

    assert taken <= (IN_FLIGHT + 1) * BATCH
    gate.set()
    assert await running == 20 * BATCH


@pytest.mark.parametrize("error", [Overloaded("full"), Unavailable("away"), DeadlineExceeded("late")])
async def test_an_encoder_that_is_busy_is_asked_again(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FIRST_PAUSE_S", 0.0)
    encoder = Encoder(errors=iter([error, error]))

    encoded = await patiently(encoder, np.zeros((1, 224, 224, 3), np.uint8))

    assert encoded.encoder == "fake-1"
    assert len(encoder.batches) == 3


async def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FIRST_PAUSE_S", 0.0)
    encoder = Encoder(errors=(Unavailable("away") for _ in range(100)))

    with pytest.raises(Unavailable):
        await patiently(encoder, np.zeros((1, 224, 224, 3), np.uint8))

    assert len(encoder.batches) == TRIES


async def test_a_model_that_is_exchanged_meanwhile_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"changed from fake-1 to fake-2"):
        await encode_photos(Encoder("fake-2"), photos(100), Features(tmp_path, 3), "fake-1")

    assert len(Features(tmp_path, 3)) == 0


async def test_what_was_encoded_before_a_failure_is_kept(tmp_path: Path) -> None:
    def source() -> Iterator[Photo]:
        yield from photos(4 * BATCH)
        raise BadCatalogue("row 65")

    with pytest.raises(BadCatalogue, match="row 65"):
        await encode_photos(Encoder(), source(), Features(tmp_path, 3), "fake-1")

    kept = Features(tmp_path, 3)
    before = len(kept)
    assert before >= 2 * BATCH
    assert await encode_photos(Encoder(), photos(5 * BATCH), kept, "fake-1") == 5 * BATCH - before


async def test_what_was_encoded_before_an_interruption_is_kept(tmp_path: Path) -> None:
    encoder = Encoder()
    running = asyncio.create_task(encode_photos(encoder, photos(200 * BATCH), Features(tmp_path, 3), "fake-1"))
    while len(encoder.batches) < 5:  # noqa: ASYNC110  # the fake has no event to wait for
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(Features(tmp_path, 3)) >= 3 * BATCH
