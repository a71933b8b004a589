"""Photos to vectors in batches, a bounded number of them under way; what is known is not encoded again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager

import numpy as np
import numpy.typing as npt

from encoders.image.client import ImageEncoder
from encoders.image.preprocessing import SIDE_PX
from encoders.types import Embeddings
from lookalike.channels import aio_channel
from lookalike.errors import DeadlineExceeded, OperatorError, Overloaded, Unavailable
from lookalike.runtime.deadline import Deadline
from pipeline.features import Features
from pipeline.photos import Photo

Pixels = npt.NDArray[np.uint8]  # (n, 224, 224, 3)
Encode = Callable[[Pixels], Awaitable[Embeddings]]

BATCH = 16
IN_FLIGHT = 2  # While the model works on one batch, the next one is on its way.
TRIES = 7
FIRST_PAUSE_S = 0.25  # Doubled each time: 16 seconds in all, in which a server restarts.
_CALL_S = 60.0


@asynccontextmanager
async def served(address: str, *, version: int = 0, label: str = "") -> AsyncIterator[Encode]:
    """The encoder of a model server or TF-Serving at host:port.

    version, label: of the model, to keep to; neither: the latest there is. Both: BadSettings.
    """
    async with aio_channel(address) as channel:
        encoder = ImageEncoder(channel, version=version, label=label)

        async def encode(pixels: Pixels) -> Embeddings:
            return await encoder.encode(pixels, Deadline.after(_CALL_S))

        yield encode


async def probe(encode: Encode) -> Embeddings:
    """What the encoder makes of one black picture: its fingerprint, its dimension, and that it answers."""
    return await patiently(encode, np.zeros((1, SIDE_PX, SIDE_PX, 3), np.uint8))


async def patiently(encode: Encode, pixels: Pixels) -> Embeddings:
    """Encode, and try again for a while where the encoder is busy or away. Raises what its last failure raised."""
    for number in itertools.count(1):
        try:
            return await encode(pixels)
        except (Overloaded, Unavailable, DeadlineExceeded):
            if number == TRIES:
                raise
            await asyncio.sleep(FIRST_PAUSE_S * 2 ** (number - 1))
    raise AssertionError("counting ends")


async def encode_photos(encode: Encode, photos: Iterable[Photo], features: Features, encoder: str) -> int:
    """Encode the photos that have pixels and keep their vectors; how many there were.

    photos: taken on a thread, as far as there is room. What was encoded is kept whatever happens.
    Raises OperatorError where the model is exchanged meanwhile: one index has vectors of one encoder.
    """
    slots, encoded = asyncio.Semaphore(IN_FLIGHT), 0

    async def run(batch: list[Photo]) -> None:
        try:
            answer = await patiently(encode, np.stack([photo.pixels for photo in batch if photo.pixels is not None]))
        finally:
            slots.release()
        if answer.encoder != encoder:
            raise OperatorError(f"the image model changed from {encoder} to {answer.encoder}: run the update again")
        features.add([photo.digest for photo in batch], answer.vectors)

    batches = _batches(photos, features)
    try:
        async with asyncio.TaskGroup() as calls:
            while (batch := await asyncio.to_thread(next, batches, None)) is not None:
                await slots.acquire()
                encoded += len(batch)
                calls.create_task(run(batch))
    except* Exception as errors:
        raise _first(errors) from None
    finally:
        features.flush()
    return encoded


def _batches(photos: Iterable[Photo], features: Features) -> Iterator[list[Photo]]:
    """Sixteen at a time, of each picture one."""
    taken: set[str] = set()
    batch: list[Photo] = []
    for photo in photos:
        if photo.pixels is None or photo.digest in taken or photo.digest in features:
            continue
        taken.add(photo.digest)
        batch.append(photo)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
