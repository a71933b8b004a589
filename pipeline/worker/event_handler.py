"""Makes the change of one event: has its photo encoded, and writes it. Calls what fetches, encodes and writes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Final, Protocol

from encoders.clients import EncodedVector
from lookalike.errors import CallerError, FailedPrecondition, InternalError, ServiceError
from lookalike.runtime import tracing
from lookalike.status import retry_delay_s
from lookalike.v1.catalog_pb2 import Change, ChangeResponse, PatchRequest, UpsertRequest
from lookalike.v1.event_pb2 import ProductEvent
from lookalike.v1.types_pb2 import SPACE_IMAGE, Product, SpaceVector
from lookalike.vectors import pack
from pipeline.worker.failures import Poison, Retry, RetryCause

WriteChange = Callable[[Change], Awaitable[ChangeResponse]]

_TEXT_FIELDS: Final = frozenset({"title", "description"})


class EncodePhoto(Protocol):
    """The vector of a product's photo, by its field `image` and the root that the event states for paths.

    Raises PhotoUnusable, and Retry.
    """

    async def __call__(self, image: str, root: str) -> EncodedVector: ...

    def forget_encoder(self) -> None:
        """Ask the encoder again who it is: its vectors were refused."""


class Outcome(StrEnum):
    """What became of the change of an event. Events are counted by this."""

    APPLIED = "applied"
    STALE = "stale"  # This revision of the product, or a newer one, was applied before.


class EventHandler:
    """Handles events one by one; any number at a time.

    encode_photo: None: photos are not encoded here, and image vectors stay as they are.
    """

    def __init__(self, write: WriteChange, encode_photo: EncodePhoto | None) -> None:
        self._write = write
        self._encode_photo = encode_photo

    async def __call__(self, event: ProductEvent, *, with_photo: bool = True) -> Outcome:
        """Make the change. Raises PhotoUnusable, Retry and Poison.

        with_photo: False: make it without the photo, which will not be had.
        """
        change, photo = Change(), None
        change.CopyFrom(event.change)
        if request := _request_with_photo(change):
            if with_photo and self._encode_photo is not None:
                with tracing.span("encode photo"):
                    photo = await self._encode_photo(request.product.image, event.photo_root)
                request.vectors.append(_image_vector(photo))
            elif isinstance(request, PatchRequest):
                request.encode = bool(_TEXT_FIELDS.intersection(request.update_mask.paths))
        response = await self._make(change)
        if not response.applied and request and photo and event.replays:
            # Its other fields were applied without the photo then. Nothing newer was if the revision is still the same.
            return await self._add_photo(request, photo)
        return Outcome.APPLIED if response.applied else Outcome.STALE

    async def _add_photo(self, request: UpsertRequest | PatchRequest, photo: EncodedVector) -> Outcome:
        patch = PatchRequest(
            product=Product(id=request.product.id),
            revision=request.revision + 1,
            vectors=[_image_vector(photo)],
            encode=True,
        )
        response = await self._make(Change(patch=patch))
        return Outcome.APPLIED if response.applied else Outcome.STALE

    async def _make(self, change: Change) -> ChangeResponse:
        try:
            return await self._write(change)
        except FailedPrecondition as error:
            if self._encode_photo is not None:
                self._encode_photo.forget_encoder()
            raise Retry(RetryCause.ENCODER, str(error)) from error
        except CallerError as error:
            raise Poison(str(error)) from error
        except ServiceError as error:
            cause = RetryCause.BUG if isinstance(error, InternalError) else RetryCause.GATEWAY
            raise Retry(cause, str(error), retry_after_s=retry_delay_s(error) or 0.0) from error


def _request_with_photo(change: Change) -> UpsertRequest | PatchRequest | None:
    """The request, if it asks for a photo to be encoded that it does not hold."""
    match change.WhichOneof("change"):
        case "upsert":
            request: UpsertRequest | PatchRequest = change.upsert
        case "patch" if "image" in change.patch.update_mask.paths:
            request = change.patch
        case _:
            return None
    given = request.image or any(each.space == SPACE_IMAGE for each in request.vectors)
    return request if request.encode and request.product.image and not given else None


def _image_vector(photo: EncodedVector) -> SpaceVector:
    return SpaceVector(space=SPACE_IMAGE, vector=pack(photo.vector), encoder=photo.encoder)
