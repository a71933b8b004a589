"""A photo is fetched and encoded once, whatever it is asked for and by whom."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from encoders.clients import EncodedVector
from lookalike.errors import InvalidRequest, Overloaded, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.vectors import F32
from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.photo import NOT_MODIFIED, FetchedPhoto, NotModified, Validators
from pipeline.worker.failures import PhotoUnusable, Retry, RetryCause
from pipeline.worker.photo_vectors import EncodedPhoto, KnownPhoto, PhotoVectors


class Shop:
    """Photos by their source, with an ETag each."""

    def __init__(self) -> None:
        self.photos: dict[str, bytes] = {}
        self.fetched: list[str] = []
        self.error: FetchError | None = None

    async def fetch(
        self, source: str, known: Validators | None = None, *, root: str = ""
    ) -> FetchedPhoto | NotModified:
        if self.error is not None:
            raise self.error
        data = self.photos[source]
        validators = Validators(etag=str(hash(data)), size=len(data))
        if known == validators:
            return NOT_MODIFIED
        self.fetched.append(source)
        return FetchedPhoto(data, validators)


class Model:
    """An image encoder that knows how often it was asked."""

    def __init__(self) -> None:
        self.name = "net-1"
        self.encoded: list[bytes] = []
        self.asked_for: list[str] = []
        self.error: Exception | None = None

    async def encode(self, field: str, data: bytes, deadline: Deadline, fingerprint: str) -> EncodedVector:
        if self.error is not None:
            raise self.error
        self.asked_for.append(fingerprint)
        self.encoded.append(data)
        return EncodedVector(np.array([len(data), 1], np.float32), self.name)

    async def encoder(self) -> str:
        if self.error is not None:
            raise self.error
        return self.name


class Known:
    """The feature store, in memory."""

    def __init__(self) -> None:
        self.by_digest: dict[tuple[str, str], F32] = {}
        self.sources: dict[str, tuple[str, Validators]] = {}
        self.calls: list[int] = []  # How many photos each was about.

    def fetched(self, encoder: str, sources: Sequence[str]) -> list[KnownPhoto | None]:
        self.calls.append(len(sources))
        return [self._photo(encoder, source) for source in sources]

    def _photo(self, encoder: str, source: str) -> KnownPhoto | None:
        digest, validators = self.sources.get(source, ("", Validators()))
        vector = self.by_digest.get((encoder, digest))
        return None if vector is None else KnownPhoto(validators, vector)

    def vectors(self, encoder: str, digests: Sequence[str]) -> list[F32 | None]:
        self.calls.append(len(digests))
        return [self.by_digest.get((encoder, digest)) for digest in digests]

    def keep(self, photos: Sequence[EncodedPhoto]) -> None:
        self.calls.append(len(photos))
        for photo in photos:
            self.sources[photo.source] = photo.digest, photo.validators
            if photo.vector is not None:
                self.by_digest[photo.encoder, photo.digest] = photo.vector


@pytest.fixture
def shop() -> Shop:
    shop = Shop()
    shop.photos = {"http://shop/a.jpg": b"red", "http://shop/b.jpg": b"red", "http://shop/c.jpg": b"blue"}
    return shop


@pytest.fixture
def model() -> Model:
    return Model()


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def make(shop: Shop, model: Model, known: Known) -> Callable[[], PhotoVectors]:
    return lambda: PhotoVectors(shop.fetch, model.encode, model.encoder, known)


async def test_photos_are_encoded_by_the_encoder_that_is_served(model: Model, make: Callable[[], PhotoVectors]) -> None:
    photos = make()
    await photos("http://shop/a.jpg", "")
    model.name = "net-2"  # As another release begins to serve: a change by the old encoder is refused.
    photos.forget_encoder()
    await photos("http://shop/c.jpg", "")
    assert model.asked_for == ["net-1", "net-2"]


async def test_an_unchanged_photo_is_neither_fetched_nor_encoded_again_not_even_by_the_next_worker(
    shop: Shop, model: Model, make: Callable[[], PhotoVectors]
) -> None:
    first = await make()("http://shop/a.jpg", "")
    again = await make()("http://shop/a.jpg", "")
    assert np.array_equal(first.vector, again.vector)
    assert first.encoder == again.encoder == "net-1"
    assert shop.fetched == ["http://shop/a.jpg"]
    assert model.encoded == [b"red"]
    shop.photos["http://shop/a.jpg"] = b"green!"
    assert (await make()("http://shop/a.jpg", "")).vector[0] == 6


async def test_a_photo_that_was_encoded_under_another_address_is_not_encoded_again(
    shop: Shop, model: Model, make: Callable[[], PhotoVectors]
) -> None:
    vectors = make()
    for url in shop.photos:
        await vectors(url, "")
    assert model.encoded == [b"red", b"blue"]


async def test_a_model_that_changed_encodes_photos_anew_when_its_vectors_are_refused(
    shop: Shop, model: Model, make: Callable[[], PhotoVectors]
) -> None:
    vectors = make()
    await vectors("http://shop/a.jpg", "")
    model.name = "net-2"
    assert (await vectors("http://shop/a.jpg", "")).encoder == "net-1"  # Nobody has said so.
    vectors.forget_encoder()
    assert (await vectors("http://shop/a.jpg", "")).encoder == "net-2"
    assert model.encoded == [b"red", b"red"]


@pytest.mark.parametrize("cause", FetchCause)
async def test_only_what_may_pass_is_fetched_again(
    shop: Shop, make: Callable[[], PhotoVectors], cause: FetchCause
) -> None:
    shop.error = FetchError(cause, "shop answered", retry_after_s=4)
    with pytest.raises(Retry if cause.is_temporary else PhotoUnusable) as error:
        await make()("http://shop/a.jpg", "")
    if isinstance(error.value, Retry):
        assert (error.value.cause, error.value.retry_after_s) == (RetryCause.PHOTO, 4)


async def test_a_broken_photo_is_unusable_and_a_model_server_that_is_away_is_waited_for(
    model: Model, known: Known, make: Callable[[], PhotoVectors]
) -> None:
    vectors = make()
    await vectors("http://shop/a.jpg", "")
    model.error = InvalidRequest("image", "a damaged JPEG")
    with pytest.raises(PhotoUnusable, match="damaged JPEG"):
        await vectors("http://shop/c.jpg", "")
    for error in (Unavailable("down"), Overloaded("full", retry_after_s=2)):
        model.error = error
        with pytest.raises(Retry) as retry:
            await make()("http://shop/c.jpg", "")
        assert retry.value.cause is RetryCause.MODEL_SERVER
    assert [*known.sources] == ["http://shop/a.jpg"]  # Else the next fetch would say: not modified.


async def test_the_store_is_asked_for_photos_that_come_at_the_same_time_together(
    shop: Shop, known: Known, make: Callable[[], PhotoVectors]
) -> None:
    vectors = make()
    await vectors("http://shop/a.jpg", "")
    known.calls.clear()
    shop.photos |= {f"http://shop/{number}.jpg": bytes(number) for number in range(1, 51)}
    made = await asyncio.gather(*(vectors(url, "") for url in shop.photos))
    assert [each.vector[0] for each in made[3:]] == [*range(1, 51)]
    assert sum(known.calls) == 3 * len(shop.photos) - 2  # The unchanged one is only looked up.
    assert len(known.calls) < 15
