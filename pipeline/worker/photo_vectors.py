"""The vector of a product's photo: fetched and encoded only if that was not done before. I/O through its parts.

A photo that is as it was when it was last fetched, as its store says, is not fetched again; one whose bytes were
encoded before, wherever they came from, is not encoded again. What is computed is kept in the feature store, where the
nightly update finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from hashlib import blake2b
from typing import Final, Protocol

import numpy as np

from encoders.clients import EncodedVector
from lookalike.errors import InvalidRequest, ServiceError
from lookalike.runtime.deadline import Deadline
from lookalike.status import retry_delay_s
from lookalike.vectors import F32
from pipeline.fetching.failures import FetchError
from pipeline.fetching.photo import FetchedPhoto, NotModified, Validators
from pipeline.worker import metrics
from pipeline.worker.failures import PhotoUnusable, Retry, RetryCause

_TIMEOUT_S: Final = 60.0  # Of encoding: other photos may wait before it.


class FetchFrom(Protocol):
    """Fetches a photo as `PhotoFetcher`, a path below the given root. Raises FetchError."""

    async def __call__(
        self, source: str, known: Validators | None = None, *, root: str = ""
    ) -> FetchedPhoto | NotModified: ...


class KnownPhotos(Protocol):
    """What is known of photos that were fetched and encoded before. Blocking I/O: called on a thread."""

    def fetched(self, source: str) -> tuple[str, Validators] | None:
        """The digest of a photo, and what tells whether it is still as it was; None: it was never fetched."""

    def vector(self, encoder: str, digest: str) -> F32 | None: ...

    def note_fetched(self, source: str, digest: str, validators: Validators) -> None: ...

    def add_vector(self, encoder: str, digest: str, vector: F32) -> None: ...


class PhotoVectors:
    """An `EncodePhoto`; for use on one event loop.

    encode:  as `Encoders.encode_image`.
    encoder: the fingerprint of the encoder that photos are to be encoded by, by asking. Raises ServiceError.
    """

    def __init__(
        self,
        fetch: FetchFrom,
        encode: Callable[[str, bytes, Deadline, str], Awaitable[EncodedVector]],
        encoder: Callable[[], Awaitable[str]],
        known: KnownPhotos,
    ) -> None:
        self._fetch = fetch
        self._encode = encode
        self._ask_encoder = encoder
        self._known = known
        self._encoder = ""

    async def __call__(self, image: str, root: str) -> EncodedVector:
        """The vector of a photo, of unit norm. Raises PhotoUnusable and Retry."""
        encoder = self._encoder or await self._current_encoder()
        source = f"{root}/{image}" if root and "://" not in image else image
        seen = await asyncio.to_thread(self._known.fetched, source)
        vector = None if seen is None else await asyncio.to_thread(self._known.vector, encoder, seen[0])
        try:
            photo = await self._fetch(image, seen[1] if seen and vector is not None else None, root=root)
        except FetchError as error:
            if error.cause.is_temporary:
                raise Retry(RetryCause.PHOTO, str(error), retry_after_s=error.retry_after_s) from error
            metrics.PHOTOS.labels(outcome="unusable").inc()
            raise PhotoUnusable(str(error)) from error
        if isinstance(photo, FetchedPhoto):
            return await self._vector_of(source, photo, encoder)
        assert vector is not None, "it is only not modified if it was encoded before"  # noqa: S101  # for the type checker
        metrics.PHOTOS.labels(outcome="unchanged").inc()
        return EncodedVector(vector, encoder)

    def forget_encoder(self) -> None:
        """Ask the encoder again who it is, with the next photo."""
        self._encoder = ""

    async def _vector_of(self, source: str, photo: FetchedPhoto, encoder: str) -> EncodedVector:
        digest = blake2b(photo.data, digest_size=16).hexdigest()
        vector = await asyncio.to_thread(self._known.vector, encoder, digest)
        if vector is None:
            encoded = await self._encoded(photo.data, encoder)
            encoder, vector = encoded.encoder, encoded.vector
            self._encoder = encoder
            await asyncio.to_thread(self._known.add_vector, encoder, digest, vector)
            metrics.PHOTOS.labels(outcome="encoded").inc()
        else:
            metrics.PHOTOS.labels(outcome="known").inc()
        await asyncio.to_thread(self._known.note_fetched, source, digest, photo.validators)
        return EncodedVector(np.asarray(vector, np.float32), encoder)

    async def _encoded(self, data: bytes, encoder: str) -> EncodedVector:
        try:
            return await self._encode("image", data, Deadline.after(_TIMEOUT_S), encoder)
        except InvalidRequest as error:
            metrics.PHOTOS.labels(outcome="unusable").inc()
            raise PhotoUnusable(f"broken photo: {error.reason}") from error
        except ServiceError as error:
            raise _retry(error) from error

    async def _current_encoder(self) -> str:
        try:
            self._encoder = await self._ask_encoder()
        except ServiceError as error:
            raise _retry(error) from error
        return self._encoder


def _retry(error: ServiceError) -> Retry:
    return Retry(RetryCause.MODEL_SERVER, str(error), retry_after_s=retry_delay_s(error) or 0.0)
