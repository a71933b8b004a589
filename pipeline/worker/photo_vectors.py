"""The vector of a product's photo: fetched and encoded only if that was not done before. I/O through its parts.

A photo that is as it was when it was last fetched, as its store says, is not fetched again; one whose bytes were
encoded before, wherever they came from, is not encoded again. What is computed is kept in the feature store, where the
nightly update finds it. What is asked of the store at the same time is asked together, in one call on a thread.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final, NamedTuple, Protocol, TypeVar

import numpy as np

from encoders.clients import EncodedVector
from encoders.groups import send_groups
from lookalike.errors import FailedPrecondition, InvalidRequest, ServiceError
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.status import retry_delay_s
from lookalike.vectors import F32
from pipeline.fetching.failures import FetchError
from pipeline.fetching.photo import FetchedPhoto, NotModified, Validators
from pipeline.worker import metrics
from pipeline.worker.failures import PhotoUnusable, Retry, RetryCause

_TIMEOUT_S: Final = 60.0  # Of encoding: other photos may wait before it.
_TOGETHER: Final = 256  # Photos that the store is asked for at once.
_STORE_CALLS: Final = 2  # At a time: while one waits for a store far away, the next is sent.
_UNBOUNDED: Final = 1 << 62  # The worker bounds what waits by what it polls.

Reply = TypeVar("Reply")


class FetchFrom(Protocol):
    """Fetches a photo as `PhotoFetcher`, a path below the given root. Raises FetchError."""

    async def __call__(
        self, source: str, known: Validators | None = None, *, root: str = ""
    ) -> FetchedPhoto | NotModified: ...


class KnownPhoto(NamedTuple):
    """A photo that was fetched and encoded before."""

    validators: Validators  # They tell whether it is still as it was.
    vector: F32


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedPhoto:
    """A photo that was fetched, and what it was encoded to."""

    source: str
    digest: str
    validators: Validators
    encoder: str
    vector: F32 | None  # None: it is known already.


class KnownPhotos(Protocol):
    """What is known of photos that were fetched and encoded before. Blocking I/O: called on threads."""

    def fetched(self, encoder: str, sources: Sequence[str]) -> Sequence[KnownPhoto | None]:
        """What is known of each photo; None: it was never fetched, or never encoded by this encoder."""

    def vectors(self, encoder: str, digests: Sequence[str]) -> Sequence[F32 | None]: ...

    def keep(self, photos: Sequence[EncodedPhoto]) -> None: ...


class _Key(NamedTuple):
    """A source or a digest, and the encoder whose vector is asked for."""

    encoder: str
    name: str


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
        self._encoder = ""
        self._fetched = _asked_together(known.fetched)
        self._vectors = _asked_together(known.vectors)
        self._keep = _kept_together(known.keep)

    async def __call__(self, image: str, root: str) -> EncodedVector:
        """The vector of a photo, of unit norm. Raises PhotoUnusable and Retry."""
        encoder = self._encoder or await self._current_encoder()
        source = f"{root}/{image}" if root and "://" not in image else image
        known = await self._fetched.submit(_Key(encoder, source))
        try:
            photo = await self._fetch(image, known.validators if known else None, root=root)
        except FetchError as error:
            if error.cause.is_temporary:
                raise Retry(RetryCause.PHOTO, str(error), retry_after_s=error.retry_after_s) from error
            metrics.PHOTOS.labels(outcome="unusable").inc()
            raise PhotoUnusable(str(error)) from error
        if isinstance(photo, FetchedPhoto):
            return await self._vector_of(source, photo, encoder)
        assert known is not None, "it is only not modified if it was encoded before"  # noqa: S101  # for the type checker
        metrics.PHOTOS.labels(outcome="unchanged").inc()
        return EncodedVector(known.vector, encoder)

    def forget_encoder(self) -> None:
        """Ask the encoder again who it is, with the next photo."""
        self._encoder = ""

    async def _vector_of(self, source: str, photo: FetchedPhoto, encoder: str) -> EncodedVector:
        digest = blake2b(photo.data, digest_size=16).hexdigest()
        known = vector = await self._vectors.submit(_Key(encoder, digest))
        if vector is None:
            vector, encoder = await self._encoded(photo.data, encoder)
            self._encoder = encoder
        await self._keep.submit(
            EncodedPhoto(
                source=source,
                digest=digest,
                validators=photo.validators,
                encoder=encoder,
                vector=vector if known is None else None,
            )
        )
        metrics.PHOTOS.labels(outcome="encoded" if known is None else "known").inc()
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


def _asked_together(ask: Callable[[str, Sequence[str]], Sequence[Reply]]) -> Coalescer[_Key, Reply]:
    """Ask on threads, in a call for each encoder: there are two while one takes the place of another."""

    async def ask_one(keys: list[_Key]) -> Sequence[Reply]:
        return await asyncio.to_thread(ask, keys[0].encoder, [key.name for key in keys])

    async def send(keys: list[_Key]) -> Sequence[Reply | FailedPrecondition]:
        return await send_groups(keys, [key.encoder for key in keys], ask_one)

    return Coalescer(send, max_in_flight=_STORE_CALLS, max_batch=_TOGETHER, max_waiting=_UNBOUNDED)


def _kept_together(keep: Callable[[Sequence[EncodedPhoto]], None]) -> Coalescer[EncodedPhoto, None]:
    async def send(photos: list[EncodedPhoto]) -> Sequence[None]:
        await asyncio.to_thread(keep, photos)
        return [None] * len(photos)

    return Coalescer(send, max_in_flight=_STORE_CALLS, max_batch=_TOGETHER, max_waiting=_UNBOUNDED)
