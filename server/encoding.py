"""Photos and texts to query vectors, through the model server and the text encoder, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc.aio
import numpy as np
import numpy.typing as npt

from encoders.images import BadImage, preprocess
from encoders.text_client import TextEncoder
from encoders.tfserving import ImageEncoder
from lookalike import rpc
from lookalike.coalesce import Coalescer
from lookalike.deadline import Deadline
from lookalike.errors import InvalidRequest, Unavailable, WrongState
from lookalike.vectors import F32
from server.settings import GatewaySettings
from server.topology import SpaceInfo

Pixels = npt.NDArray[np.uint8]
Vector = tuple[F32, str]  # (dim,) float32, and the fingerprint of the encoder that made it.


class Encoders:
    """The two encoders; one that is not configured, or is down, fails the queries that need it and no other."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._threads = ThreadPoolExecutor(settings.image_threads, "photo")
        self._channels: list[grpc.aio.Channel] = []
        self._images: Coalescer[Pixels, Vector] | None = None
        self._texts: Coalescer[str, Vector] | None = None
        # A batch has no caller of its own: its time is the longest any of its callers could have.
        self._longest_s = settings.default_deadline_s
        waiting = settings.max_inflight
        if settings.model_server:
            self._image_encoder = ImageEncoder(self._channel(settings.model_server), model=settings.model)
            self._images = Coalescer(
                self._encode_images, max_in_flight=2, max_batch=settings.image_batch, max_waiting=waiting
            )
        if settings.text_encoder:
            self._text_encoder = TextEncoder(self._channel(settings.text_encoder))
            self._texts = Coalescer(
                self._encode_texts, max_in_flight=2, max_batch=settings.text_batch, max_waiting=waiting
            )

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def image(self, field: str, data: bytes, space: SpaceInfo, deadline: Deadline) -> F32:
        """(dim,) float32 of unit norm. Raises InvalidRequest for what is no photo, Unavailable, WrongState."""
        if self._images is None:
            raise Unavailable("this gateway has no image encoder: photo queries cannot be answered")
        try:
            pixels = await asyncio.get_running_loop().run_in_executor(self._threads, preprocess, data)
        except BadImage as error:
            raise InvalidRequest(field, error.reason) from error
        return _checked(field, await self._images(pixels, deadline), space)

    async def text(self, field: str, text: str, space: SpaceInfo, deadline: Deadline) -> F32:
        """(dim,) float32 of unit norm. Raises InvalidRequest for a text without words, Unavailable, WrongState."""
        if self._texts is None:
            raise Unavailable("this gateway has no text encoder: text queries cannot be answered")
        return _checked(field, await self._texts(text, deadline), space)

    def _channel(self, address: str) -> grpc.aio.Channel:
        self._channels.append(rpc.channel(address))
        return self._channels[-1]

    async def _encode_images(self, batch: list[Pixels]) -> Sequence[Vector]:
        encoded = await self._image_encoder.encode(np.stack(batch), Deadline.after(self._longest_s))
        return [(vector, encoded.encoder) for vector in encoded.vectors]

    async def _encode_texts(self, batch: list[str]) -> Sequence[Vector]:
        encoded = await self._text_encoder.encode(batch, Deadline.after(self._longest_s))
        return [(vector, encoded.encoder) for vector in encoded.vectors]


def _checked(field: str, answer: Vector, space: SpaceInfo) -> F32:
    """A query vector only ever meets an index of the same encoder version."""
    vector, encoder = answer
    if encoder != space.encoder:
        raise WrongState(f"the encoder is {encoder}, the index was built with {space.encoder}")
    if not vector.any():
        raise InvalidRequest(field, "has no words in it to be similar to")
    return vector
