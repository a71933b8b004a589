"""Photos, texts and what is known of products to vectors, through the model server and the text encoder, in batches."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import grpc.aio
import numpy as np
import numpy.typing as npt

from encoders.image.client import ImageEncoder
from encoders.image.preprocessing import BadImage, preprocess
from encoders.product.client import CategoryProbabilities, ProductEncoder, ProductEncoderInfo
from encoders.text.client import TextEncoder
from lookalike.channels import aio_channel, aio_channels
from lookalike.errors import DeadlineExceeded, FailedPrecondition, InvalidRequest, Unavailable
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline
from lookalike.v1.product_encoder_pb2 import ProductInput
from lookalike.vectors import F32, pack
from server.requests import MAX_CATEGORIES
from server.settings import GatewaySettings

Item = TypeVar("Item")
Reply = TypeVar("Reply")
Pixels = npt.NDArray[np.uint8]
Vector = tuple[F32, str]  # (dim,) float32, and the fingerprint of the encoder that made it.

PRODUCT_BATCH = 64  # Most products in one call to the product encoder.


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one product: at least one of the two."""

    image: Vector | None
    text: Vector | None


@dataclass(frozen=True, slots=True)
class Classification:
    """The likeliest categories of one product, at most MAX_CATEGORIES, and who says so."""

    likeliest: CategoryProbabilities
    encoder: str


class Encoders:
    """The encoders; one that is not configured, or is down, fails the queries that need it and no other."""

    def __init__(self, settings: GatewaySettings) -> None:
        self._threads = ThreadPoolExecutor(settings.image_threads, "photo")
        self._channels: list[grpc.aio.Channel] = []
        self._images: Coalescer[Pixels, Vector] | None = None
        self._texts: Coalescer[str, Vector] | None = None
        self._products: Coalescer[Known, Vector] | None = None
        self._classified: Coalescer[tuple[Known, float], Classification] | None = None
        self._longest_s = settings.default_deadline_s
        self._waiting = settings.max_inflight
        if settings.model_server:
            channels = aio_channels(settings.model_server, settings.model_server_connections)
            self._channels += channels
            self._image_encoder = ImageEncoder(
                *channels, model=settings.model, version=settings.model_version, label=settings.model_label
            )
            self._images = self._coalescer("image encoder", self._encode_images, settings.image_batch)
        if settings.text_encoder:
            channel = self._channel(settings.text_encoder)
            self._text_encoder = TextEncoder(channel)
            self._texts = self._coalescer("text encoder", self._encode_texts, settings.text_batch)
            # The product encoder lives in the same process: it takes the text encoder's vectors.
            self._product_encoder = ProductEncoder(channel)
            self._products = self._coalescer("product encoder", self._encode_products, PRODUCT_BATCH)
            self._classified = self._coalescer("product encoder", self._classify_products, PRODUCT_BATCH)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))

    async def image(self, field: str, data: bytes, deadline: Deadline) -> Vector:
        """Of unit norm. Raises InvalidRequest for what is no photo, and what `ImageEncoder.encode` does.

        A thread that is decoding at the deadline goes on until it is done; a photo that waits for one is not decoded.
        """
        if self._images is None:
            raise Unavailable("this gateway has no image encoder: photos cannot be answered")
        try:
            async with asyncio.timeout(deadline.timeout_s()):
                pixels = await asyncio.get_running_loop().run_in_executor(self._threads, preprocess, data)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the photo was decoded") from None
        except BadImage as error:
            raise InvalidRequest(field, error.reason) from error
        return await self._images(pixels, deadline)

    async def text(self, text: str, deadline: Deadline) -> Vector:
        """Of unit norm, or zeros for a text without words that it knows. Raises what `TextEncoder.encode` does."""
        if self._texts is None:
            raise Unavailable("this gateway has no text encoder: texts cannot be answered")
        return await self._texts(text, deadline)

    async def product(self, known: Known, deadline: Deadline) -> Vector:
        """Of unit norm. Raises as `ProductEncoder.encode`; FailedPrecondition for vectors of other encoders."""
        if self._products is None:
            raise Unavailable("this gateway has no product encoder: its space cannot be searched by photos and texts")
        return await self._products(known, deadline)

    async def classified(self, known: Known, precision: float, deadline: Deadline) -> Classification:
        """Raises what `ProductEncoder.classify` does, and FailedPrecondition for vectors of other encoders than its."""
        if self._classified is None:
            raise Unavailable("this gateway has no product encoder: nothing can be classified")
        return await self._classified((known, precision), deadline)

    def _channel(self, address: str) -> grpc.aio.Channel:
        self._channels.append(aio_channel(address))
        return self._channels[-1]

    def _coalescer(
        self, what: str, send: Callable[[list[Item], Deadline], Awaitable[Sequence[Reply | Exception]]], max_batch: int
    ) -> Coalescer[Item, Reply]:
        """A batch has no caller of its own: its time is the longest any of its callers could have.

        When it is over, the encoder is Unavailable; each caller's own time is for the Coalescer to keep.
        """

        async def in_time(batch: list[Item]) -> Sequence[Reply | Exception]:
            try:
                return await send(batch, Deadline.after(self._longest_s))
            except DeadlineExceeded as error:
                raise Unavailable(f"{what} did not answer in time") from error

        return Coalescer(in_time, max_in_flight=2, max_batch=max_batch, max_waiting=self._waiting)

    async def _encode_images(self, batch: list[Pixels], deadline: Deadline) -> Sequence[Vector]:
        encoded = await self._image_encoder.encode(np.stack(batch), deadline)
        return [(vector, encoded.encoder) for vector in encoded.vectors]

    async def _encode_texts(self, batch: list[str], deadline: Deadline) -> Sequence[Vector]:
        encoded = await self._text_encoder.encode(batch, deadline)
        return [(vector, encoded.encoder) for vector in encoded.vectors]

    async def _encode_products(self, batch: list[Known], deadline: Deadline) -> Sequence[Vector | FailedPrecondition]:
        return await _each_kind(batch, _kinds(batch), lambda alike: self._encode_alike(alike, deadline))

    async def _encode_alike(self, batch: list[Known], deadline: Deadline) -> Sequence[Vector | FailedPrecondition]:
        fused = await self._product_encoder.encode([_input(known) for known in batch], deadline)
        return [
            _mismatch(known, fused.info) or (vector, fused.info.encoder)
            for known, vector in zip(batch, fused.vectors, strict=True)
        ]

    async def _classify_products(
        self, batch: list[tuple[Known, float]], deadline: Deadline
    ) -> Sequence[Classification | FailedPrecondition]:
        """Most ask for the same precision; one that is another is another call."""
        known, precisions = zip(*batch, strict=True)
        kinds = [*zip(precisions, _kinds(known), strict=True)]
        return await _each_kind(batch, kinds, lambda alike: self._classify_alike(alike, deadline))

    async def _classify_alike(
        self, batch: list[tuple[Known, float]], deadline: Deadline
    ) -> Sequence[Classification | FailedPrecondition]:
        inputs, (_, precision) = [_input(known) for known, _ in batch], batch[0]
        likeliest, by = await self._product_encoder.classify(
            inputs, deadline, limit=MAX_CATEGORIES, precision=precision
        )
        return [
            _mismatch(known, by) or Classification(each, by.encoder)
            for (known, _), each in zip(batch, likeliest, strict=True)
        ]


def _kinds(batch: Sequence[Known]) -> list[tuple[str, str]]:
    """The encoders of what each is known by: vectors of different ones may be of different dimensions.

    What has no photo, or no text, goes with those that have one, as long as these are all of one encoder.
    """
    photos = {known.image[1] for known in batch if known.image}
    texts = {known.text[1] for known in batch if known.text}
    photo = photos.pop() if len(photos) == 1 else ""
    text = texts.pop() if len(texts) == 1 else ""
    return [(known.image[1] if known.image else photo, known.text[1] if known.text else text) for known in batch]


async def _each_kind(
    batch: list[Item],
    kinds: Sequence[Hashable],
    send: Callable[[list[Item]], Awaitable[Sequence[Reply | FailedPrecondition]]],
) -> list[Reply | FailedPrecondition]:
    """The replies to one call for each kind of items, in their order; a FailedPrecondition fails its kind alone."""
    replies: dict[int, Reply | FailedPrecondition] = {}
    for kind in dict.fromkeys(kinds):
        at = [i for i, each in enumerate(kinds) if each == kind]
        try:
            replies.update(zip(at, await send([batch[i] for i in at]), strict=True))
        except FailedPrecondition as error:
            replies.update(dict.fromkeys(at, error))
    return [replies[i] for i in range(len(batch))]


def _input(known: Known) -> ProductInput:
    """Texts go as vectors: whether one has words in it, and which encoder made it, is known before it is fused."""
    return ProductInput(
        image=pack(known.image[0]) if known.image else b"", text=pack(known.text[0]) if known.text else b""
    )


def _mismatch(known: Known, by: ProductEncoderInfo) -> FailedPrecondition | None:
    """Vectors of other encoders than the product encoder was trained on mean nothing to it."""
    for what, given, taken in (("photo", known.image, by.image_encoder), ("text", known.text, by.text_encoder)):
        if given is not None and given[1] != taken:
            return FailedPrecondition(f"the {what} was encoded by {given[1]}; {by.encoder} takes {taken or 'none'}")
    return None
