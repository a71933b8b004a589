"""Encodes photos with a model server, in batches of which a few are in flight; computes no stored vector again.

Calls the model server, and writes the feature store.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from encoders.image.client import ImageEncoder, WrongInputSize
from encoders.image.signature import MODEL
from encoders.types import Embeddings
from lookalike.channels import aio_channel, process_tls, use_tls
from lookalike.errors import BadArtifact, OperatorError, ServiceError
from lookalike.runtime.deadline import Deadline
from lookalike.tls import Tls
from lookalike.vectors import F32
from pipeline.features.vectors import VectorTable
from pipeline.photos import Photo

T = TypeVar("T")
Pixels = npt.NDArray[np.uint8]  # (n, px, px, 3)
Encode = Callable[[Pixels], Awaitable[Embeddings]]

BATCH = 16
MAX_IN_FLIGHT = 2  # Batches: while the model computes one, the next is sent.
ATTEMPTS = 7
FIRST_PAUSE_S = 0.25  # Before the second attempt, then doubled: 16 seconds in all, in which a server restarts.
_TIMEOUT_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoEncoder:
    """An image encoder, and the size of the photos that it takes."""

    encode: Encode
    input_px: int
    model: str = ""  # Name and version of the model, as "mobilenet:3"; empty: not known.


@asynccontextmanager
async def connect_encoder(
    address: str, *, model: str = MODEL, version: int = 0, label: str = "", tls: Tls | None = None
) -> AsyncIterator[PhotoEncoder]:
    """Connect to the image encoder of a model server or TF-Serving at host:port. Retries as `encode_with_retries`.

    version, label: pin a version of the model; neither: the latest. Raises BadSettings for both.
    tls:            how it is called where this process has no channels by TLS, as in a task of another machine.
    """
    if tls and not process_tls():
        use_tls(tls)
    async with aio_channel(address) as channel:
        encoder = ImageEncoder(channel, model=model, version=version, label=label)

        async def encode(pixels: Pixels) -> Embeddings:
            return await encoder.encode(pixels, Deadline.after(_TIMEOUT_S))

        served = await with_retries(lambda: encoder.model(Deadline.after(_TIMEOUT_S)))
        yield PhotoEncoder(encode=encode, input_px=served.input_px, model=f"{model}:{served.version}")


async def probe(encoder: PhotoEncoder) -> Embeddings:
    """Encode one black picture: gives the encoder's fingerprint and dimension, and shows that it answers."""
    side_px = encoder.input_px
    return await encode_with_retries(encoder.encode, np.zeros((1, side_px, side_px, 3), np.uint8))


async def encode_with_retries(encode: Encode, pixels: Pixels) -> Embeddings:
    """Encode; retry if the encoder is overloaded or unreachable. Raises the error of the last attempt.

    Raises OperatorError if the model takes images of another size by now.
    """
    return await with_retries(lambda: encode(pixels))


async def encode_by(encoder: str, encode: Encode, pixels: Pixels) -> F32:
    """Encode, with retries. Raises OperatorError if the encoder is not the one of this fingerprint any more."""
    response = await encode_with_retries(encode, pixels)
    if response.encoder != encoder:
        raise OperatorError(f"the image model changed from {encoder} to {response.encoder}: run the update again")
    return response.vectors


async def with_retries(call: Callable[[], Awaitable[T]]) -> T:
    """Call; again while the server fails. Raises the error of the last attempt."""
    for attempt in itertools.count(1):
        try:
            return await call()
        except WrongInputSize as error:
            raise OperatorError(f"the image model changed ({error}): run the update again") from error
        except ServiceError:
            if attempt == ATTEMPTS:
                raise
            await asyncio.sleep(FIRST_PAUSE_S * 2 ** (attempt - 1))
    raise AssertionError("unreachable: the last attempt raises")


async def encode_photos(encode: Encode, photos: Iterable[Photo], features: VectorTable, encoder: str) -> int:
    """Encode the photos that have pixels, and store them and those that have a vector. Returns how many are new.

    photos: read on a thread, no faster than they are encoded. Vectors computed before an error stay stored.
    Raises OperatorError if the model changes meanwhile, since all vectors of an index are of one encoder; BadArtifact
    for a vector that is zero or not finite, which is not stored.
    """
    slots, count = asyncio.Semaphore(MAX_IN_FLIGHT), 0

    async def encode_batch(batch: list[Photo]) -> None:
        try:
            encoded = [photo.vector for photo in batch if photo.vector is not None]
            if len(encoded) == len(batch):
                vectors = np.stack(encoded)
            else:
                pixels = np.stack([photo.pixels for photo in batch if photo.pixels is not None])
                vectors = await encode_by(encoder, encode, pixels)
        finally:
            slots.release()
        _check(vectors, encoder)
        digests, products = [photo.digest for photo in batch], [photo.product for photo in batch]
        # Not on a thread, which might be cancelled before it starts: one part in 1,024 photos is written here.
        features.add(digests, vectors, products)

    batches = _batches(photos, features)
    try:
        async with asyncio.TaskGroup() as calls:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                await slots.acquire()
                count += len(batch)
                calls.create_task(encode_batch(batch))
    except* Exception as errors:
        raise _first_error(errors) from None
    finally:
        features.flush()
    return count


def _batches(photos: Iterable[Photo], features: VectorTable) -> Iterator[list[Photo]]:
    """Batches of photos that are not stored yet, each photo once."""
    seen: set[str] = set()
    batch: list[Photo] = []
    for photo in photos:
        is_new = photo.pixels is not None or photo.vector is not None
        if not is_new or photo.digest in seen or photo.digest in features:
            continue
        seen.add(photo.digest)
        batch.append(photo)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _check(vectors: F32, encoder: str) -> None:
    """Raises BadArtifact for a vector that must not be stored: it is similar to nothing, or to everything."""
    if not (finite := np.isfinite(vectors).all(axis=1)).all():
        raise BadArtifact(f"image: vector {finite.argmin()} of a batch by {encoder} is not finite")
    if not (nonzero := vectors.any(axis=1)).all():
        raise BadArtifact(f"image: vector {nonzero.argmin()} of a batch by {encoder} is zero: it is similar to nothing")


def _first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
