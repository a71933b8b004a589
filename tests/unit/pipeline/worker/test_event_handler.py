"""The change of an event: with the vector of its photo, without it, and what becomes of a refusal."""

from __future__ import annotations

import numpy as np
import pytest

from encoders.clients import EncodedVector
from lookalike.changes import patch_change, remove_change, upsert_change
from lookalike.errors import (
    FailedPrecondition,
    InternalError,
    InvalidRequest,
    LookalikeError,
    NotFound,
    Overloaded,
    Unavailable,
)
from lookalike.status import INTERNAL_MESSAGE
from lookalike.stream import event as events
from lookalike.v1.catalog_pb2 import Change, ChangeResponse, PatchRequest
from lookalike.v1.event_pb2 import ProductEvent
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product
from lookalike.vectors import unpack
from pipeline.worker.event_handler import EventHandler, Outcome
from pipeline.worker.failures import PhotoUnusable, Poison, Retry, RetryCause

VECTOR = np.array([0.6, 0.8], np.float32)


class Catalogue:
    """Takes changes; the newest revision of a product wins."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.revisions: dict[str, int] = {}
        self.error: LookalikeError | None = None

    async def __call__(self, change: Change) -> ChangeResponse:
        if self.error is not None:
            raise self.error
        self.changes.append(change)
        product_id, revision = events.product_id_of(change), events.revision_of(change)
        newest = self.revisions.get(product_id, 0)
        self.revisions[product_id] = max(newest, revision)
        return ChangeResponse(applied=revision > newest, revision=max(newest, revision))


class Photos:
    """Encodes every photo but those that are to fail."""

    def __init__(self) -> None:
        self.encoded: list[tuple[str, str]] = []
        self.error: Exception | None = None
        self.forgotten = 0

    async def __call__(self, image: str, root: str) -> EncodedVector:
        self.encoded.append((image, root))
        if self.error is not None:
            raise self.error
        return EncodedVector(VECTOR, "mobilenet-1")

    def forget_encoder(self) -> None:
        self.forgotten += 1


@pytest.fixture
def catalogue() -> Catalogue:
    return Catalogue()


@pytest.fixture
def photos() -> Photos:
    return Photos()


@pytest.fixture
def handle(catalogue: Catalogue, photos: Photos) -> EventHandler:
    return EventHandler(catalogue, photos)


def put(*, revision: int = 7, encode: bool = True, image: str = "a.jpg", replays: int = 0) -> ProductEvent:
    product = Product(id="a", category="c", title="red shoe", image=image)
    change = upsert_change(product, revision=revision, encode=encode, allow_unfindable=not encode)
    event = events.new_event(change, source="test", published_at_s=1.0, photo_root="/photos")
    event.replays = replays
    return event


async def test_the_photo_goes_as_a_vector_that_states_its_encoder_and_the_event_stays_as_it_is(
    catalogue: Catalogue, photos: Photos, handle: EventHandler
) -> None:
    event = put()
    assert await handle(event) is Outcome.APPLIED
    (change,) = catalogue.changes
    (vector,) = change.upsert.vectors
    assert (vector.space, vector.encoder) == (SPACE_IMAGE, "mobilenet-1")
    assert np.allclose(unpack(vector.vector, 2)[0], VECTOR)
    assert change.upsert.encode  # The gateway encodes the text, and both together.
    assert photos.encoded == [("a.jpg", "/photos")]
    assert not event.change.upsert.vectors


async def test_no_photo_is_fetched_that_the_change_does_not_ask_for(
    catalogue: Catalogue, photos: Photos, handle: EventHandler
) -> None:
    price = patch_change("a", revision=8, price=3.0)
    title = patch_change("a", revision=9, title="blue shoe", encode=True)
    for change in (price, title, remove_change("a", revision=10)):
        await handle(events.new_event(change, source="test", published_at_s=1.0))
    await handle(put(encode=False, revision=11))
    await handle(put(image="", revision=12))
    given = put(revision=13)
    given.change.upsert.vectors.add(space=SPACE_IMAGE, vector=VECTOR.tobytes())
    await handle(given)
    assert not photos.encoded
    assert len(catalogue.changes) == 6


async def test_a_patch_of_the_photo_has_its_vector(catalogue: Catalogue, handle: EventHandler) -> None:
    change = Change(patch=PatchRequest(product=Product(id="a", image="b.jpg"), revision=8, encode=True))
    change.patch.update_mask.paths.append("image")
    await handle(events.new_event(change, source="test", published_at_s=1.0))
    (made,) = catalogue.changes
    assert [vector.space for vector in made.patch.vectors] == [SPACE_IMAGE]
    await handle(events.new_event(change, source="test", published_at_s=1.0), with_photo=False)
    assert not catalogue.changes[1].patch.encode  # There is nothing left to encode.


async def test_without_its_photo_a_product_is_written_by_its_words(
    catalogue: Catalogue, photos: Photos, handle: EventHandler
) -> None:
    photos.error = PhotoUnusable("not found")
    with pytest.raises(PhotoUnusable):
        await handle(put())
    assert await handle(put(), with_photo=False) is Outcome.APPLIED
    (change,) = catalogue.changes
    assert change.upsert.encode
    assert not change.upsert.vectors


async def test_a_replayed_event_adds_the_photo_that_the_change_was_made_without(
    catalogue: Catalogue, handle: EventHandler
) -> None:
    await handle(put(), with_photo=False)
    assert await handle(put()) is Outcome.STALE  # Delivered again, not replayed.
    assert len(catalogue.changes) == 2
    assert await handle(put(replays=1)) is Outcome.APPLIED
    patch = catalogue.changes[-1].patch
    assert (patch.product.id, patch.revision, patch.encode, [*patch.update_mask.paths]) == ("a", 8, True, [])
    assert [vector.space for vector in patch.vectors] == [SPACE_IMAGE]


async def test_a_replayed_event_changes_nothing_that_is_newer(catalogue: Catalogue, handle: EventHandler) -> None:
    await handle(put(), with_photo=False)
    await handle(put(revision=20))
    assert await handle(put(replays=1)) is Outcome.STALE
    assert catalogue.revisions["a"] == 20


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (Unavailable("gateway: away"), RetryCause.GATEWAY),
        (Overloaded("full", retry_after_s=3), RetryCause.GATEWAY),
        (FailedPrecondition("the encoder is mobilenet-1, the index was built with mobilenet-2"), RetryCause.ENCODER),
        (InternalError(f"gateway: INTERNAL: {INTERNAL_MESSAGE}"), RetryCause.BUG),
    ],
)
async def test_what_may_pass_is_tried_again_by_its_cause(
    catalogue: Catalogue, photos: Photos, handle: EventHandler, error: LookalikeError, cause: RetryCause
) -> None:
    catalogue.error = error
    with pytest.raises(Retry) as retry:
        await handle(put())
    assert retry.value.cause is cause
    assert retry.value.retry_after_s == (3 if isinstance(error, Overloaded) else 0)
    assert photos.forgotten == (cause is RetryCause.ENCODER)


@pytest.mark.parametrize("error", [InvalidRequest("product.category", "is missing"), NotFound("no product a")])
async def test_what_never_passes_is_poison_with_its_reason(
    catalogue: Catalogue, handle: EventHandler, error: LookalikeError
) -> None:
    catalogue.error = error
    with pytest.raises(Poison, match=str(error)):
        await handle(put())


async def test_where_photos_are_not_encoded_the_text_still_is(catalogue: Catalogue) -> None:
    assert await EventHandler(catalogue, None)(put()) is Outcome.APPLIED
    assert catalogue.changes[0].upsert.encode
    assert SPACE_TEXT not in [vector.space for vector in catalogue.changes[0].upsert.vectors]
