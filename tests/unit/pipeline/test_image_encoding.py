"""Encoding photos: bounded concurrency, retries, each photo once, and never two models in one index."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from encoders.image.client import WrongInputSize
from encoders.types import Embeddings
from lookalike.errors import BadArtifact, BadCatalogue, DeadlineExceeded, OperatorError, Overloaded, Unavailable
from pipeline import image_encoding
from pipeline.features.store import FeatureStore
from pipeline.features.vectors import VectorTable
from pipeline.image_encoding import ATTEMPTS, BATCH, MAX_IN_FLIGHT, Pixels, encode_photos, encode_with_retries
from pipeline.photos import Photo


class FakeEncoder:
    """Encodes an image as its mean colour and 1, and counts batches; raises the next of `errors` if there is one."""

    def __init__(self, fingerprint: str = "fake-1", errors: Iterator[Exception] | None = None) -> None:
        self.fingerprint = fingerprint
        self.errors = errors or iter(())
        self.batches: list[int] = []
        self.in_flight = 0
        self.max_in_flight = 0

    async def __call__(self, pixels: Pixels) -> Embeddings:
        self.in_flight += 1
        self.max_in_flight = max(self.max_in_flight, self.in_flight)
        self.batches.append(len(pixels))
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        if (error := next(self.errors, None)) is not None:
            raise error
        vectors = pixels.reshape(len(pixels), -1, 3).mean(axis=1, dtype=np.float32)
        return Embeddings(vectors=vectors + 1, encoder=self.fingerprint)


def open_table(directory: Path) -> VectorTable:
    return FeatureStore(directory / "s", notice=print).vectors("image", encoder="fake-1", dim=3)


def photos(count: int, *, start: int = 0) -> list[Photo]:
    return [
        Photo(f"{number:032x}", np.full((224, 224, 3), number % 256, np.uint8))
        for number in range(start, start + count)
    ]


async def test_every_photo_is_encoded_in_batches_with_few_in_flight(tmp_path: Path) -> None:
    encoder, features = FakeEncoder(), open_table(tmp_path)

    assert await encode_photos(encoder, photos(200), features, "fake-1") == 200

    assert sum(encoder.batches) == 200
    assert max(encoder.batches) == BATCH
    assert encoder.max_in_flight == MAX_IN_FLIGHT
    gathered, missing = features.gather([photo.digest for photo in photos(200)], tmp_path / "v")
    assert not len(missing)
    np.testing.assert_allclose(gathered[:, 0], np.arange(200) + 1, atol=1e-3)


@pytest.mark.parametrize("value", [0, np.nan, np.inf])
async def test_a_vector_that_is_zero_or_not_finite_is_refused_and_not_stored(tmp_path: Path, value: float) -> None:
    features = open_table(tmp_path)

    async def encode(pixels: Pixels) -> Embeddings:
        return Embeddings(vectors=np.full((len(pixels), 3), value, np.float32), encoder="fake-1")

    with pytest.raises(BadArtifact, match=r"image: vector 0 .* is (zero|not finite)"):
        await encode_photos(encode, photos(3), features, "fake-1")
    assert len(open_table(tmp_path)) == 0


async def test_a_photo_is_encoded_once_and_a_stored_one_never(tmp_path: Path) -> None:
    encoder, features = FakeEncoder(), open_table(tmp_path)
    stored = Photo(f"{7:032x}", None)

    assert await encode_photos(encoder, [*photos(3), *photos(3), stored], features, "fake-1") == 3
    assert await encode_photos(encoder, photos(4), features, "fake-1") == 1


async def test_photos_are_read_no_faster_than_they_are_encoded(tmp_path: Path) -> None:
    photos_read, gate, lock = 0, asyncio.Event(), threading.Lock()

    def source() -> Iterator[Photo]:
        nonlocal photos_read
        for photo in photos(20 * BATCH):
            with lock:
                photos_read += 1
            yield photo

    async def wait_for_gate(pixels: Pixels) -> Embeddings:
        await gate.wait()
        return await FakeEncoder()(pixels)

    running = asyncio.create_task(encode_photos(wait_for_gate, source(), open_table(tmp_path), "fake-1"))
    await asyncio.sleep(0.1)

    assert photos_read <= (MAX_IN_FLIGHT + 1) * BATCH
    gate.set()
    assert await running == 20 * BATCH


@pytest.mark.parametrize("error", [Overloaded("full"), Unavailable("away"), DeadlineExceeded("late")])
async def test_an_overloaded_or_unreachable_encoder_is_retried(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_encoding, "FIRST_PAUSE_S", 0.0)
    encoder = FakeEncoder(errors=iter([error, error]))

    encoded = await encode_with_retries(encoder, np.zeros((1, 224, 224, 3), np.uint8))

    assert encoded.encoder == "fake-1"
    assert len(encoder.batches) == 3


async def test_after_the_last_attempt_the_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_encoding, "FIRST_PAUSE_S", 0.0)
    encoder = FakeEncoder(errors=(Unavailable("away") for _ in range(100)))

    with pytest.raises(Unavailable):
        await encode_with_retries(encoder, np.zeros((1, 224, 224, 3), np.uint8))

    assert len(encoder.batches) == ATTEMPTS


async def test_a_change_of_the_model_during_encoding_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"changed from fake-1 to fake-2"):
        await encode_photos(FakeEncoder("fake-2"), photos(100), open_table(tmp_path), "fake-1")

    assert len(open_table(tmp_path)) == 0


async def test_a_change_to_a_model_of_another_input_size_is_an_error_at_once() -> None:
    encoder = FakeEncoder(errors=iter([WrongInputSize("version 2 takes images of 64 px")]))

    with pytest.raises(OperatorError, match=r"the image model changed \(version 2 takes .* run the update again"):
        await encode_with_retries(encoder, np.zeros((1, 224, 224, 3), np.uint8))

    assert len(encoder.batches) == 1


async def test_photos_encoded_before_a_failure_stay_stored(tmp_path: Path) -> None:
    def source() -> Iterator[Photo]:
        yield from photos(4 * BATCH)
        raise BadCatalogue("row 65")

    with pytest.raises(BadCatalogue, match="row 65"):
        await encode_photos(FakeEncoder(), source(), open_table(tmp_path), "fake-1")

    features = open_table(tmp_path)
    before = len(features)
    assert before >= 2 * BATCH
    assert await encode_photos(FakeEncoder(), photos(5 * BATCH), features, "fake-1") == 5 * BATCH - before


async def test_photos_encoded_before_an_interruption_stay_stored(tmp_path: Path) -> None:
    encoder = FakeEncoder()
    running = asyncio.create_task(encode_photos(encoder, photos(200 * BATCH), open_table(tmp_path), "fake-1"))
    while len(encoder.batches) < 5 and not running.done():  # noqa: ASYNC110  # the fake has no event to wait for
        await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert len(open_table(tmp_path)) >= 3 * BATCH
