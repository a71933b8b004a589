"""Clients of all encoders, which batch the calls of concurrent requests. Network I/O (gRPC)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import grpc.aio
import numpy as np
import numpy.typing as npt

from encoders.groups import send_groups
from encoders.image.client import ImageEncoder, WrongInputSize
from encoders.image.preprocessing import BadImage, preprocess
from encoders.image.signature import MODEL
from encoders.image.versions import ImageVersions
from encoders.product.client import CategoryProbabilities, ProductEncoder, ProductEncoderInfo
from encoders.text.client import TextEncoder
from encoders.text.replicas import poll_text_encoders, text_encoder_replicas
from encoders.types import Embeddings
from lookalike.channels import aio_channels
from lookalike.errors import DeadlineExceeded, FailedPrecondition, InvalidRequest, LookalikeError, Unavailable
from lookalike.limits import MAX_CATEGORIES
from lookalike.runtime.call import carried
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.hang_guard import Hung
from lookalike.runtime.reported_breaker import ReportedBreaker
from lookalike.v1.product_encoder_pb2 import ProductInput
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from lookalike.vectors import F32, pack

Item = TypeVar("Item")
Reply = TypeVar("Reply")
Pixels = npt.NDArray[np.uint8]

_SIZES_TRIED = 4  # Of a photo.
PRODUCT_BATCH = 64  # Maximum number of products in one call to the product encoder.
POLL_TIMEOUT_S = 2.0  # Of asking a replica what it serves.
# Calls to the model server that fail in a row, of which one costs its callers up to `timeout_s`; then all fail at once.
_MAX_FAILURES = 3
_PAUSE_S = 1.0  # Until one call tries whether it answers again.
_IMAGE_SPACES, _TEXT_SPACES = (SPACE_IMAGE,), (SPACE_TEXT, SPACE_PRODUCT)


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Where the encoders are, and in what batches they are called."""

    model_server: str = ""  # host:port; empty: photos cannot be encoded.
    model: str = MODEL
    model_version: int = 0  # 0: the latest, or that of the label.
    model_label: str = ""
    model_server_connections: int = 1
    image_threads: int = 2  # That decode photos.
    image_batch: int = 16
    image_in_flight: int = 2  # Calls to the model server.
    text_encoders: Sequence[str] = ()  # host:port of text and product encoders; empty: neither texts nor products.
    text_batch: int = 64
    timeout_s: float = 2.0  # Of the call of a batch, since its callers' deadlines differ.
    max_waiting: int = 64  # Requests that wait for the call of a batch; beyond it they are refused.


class EncodedVector(NamedTuple):
    vector: F32  # (dim,) float32.
    encoder: str  # The fingerprint of the encoder that made it.


@dataclass(frozen=True, slots=True)
class InputVectors:
    """The input of the product encoder for one product: the vector of its photo, of its text, or both."""

    image: EncodedVector | None
    text: EncodedVector | None


@dataclass(frozen=True, slots=True)
class ClassificationResult:
    """The likeliest categories of one product, at most MAX_CATEGORIES."""

    likeliest: CategoryProbabilities
    encoder: str  # The fingerprint of the product encoder that classified it.


class EncoderReplica(NamedTuple):
    """An encoder process in reach, and what it serves."""

    name: str  # "text encoder 10.0.0.7:50051"
    spaces: Sequence[Space.ValueType]  # Whose encoders it may serve.
    fingerprints: frozenset[str]
    refusal: str = ""  # Why it does not serve those of the version that CURRENT names.


class _Photo(NamedTuple):
    """A photo, decoded for a version of the image model."""

    pixels: Pixels
    version: int  # 0: none in particular.
    fingerprint: str  # The encoder that is meant.


class _Text(NamedTuple):
    text: str
    fingerprint: str


class _Product(NamedTuple):
    """A product to fuse or to classify."""

    inputs: InputVectors
    fingerprint: str
    precision: float = 0.0


class Encoders:
    """Clients of all encoders. An encoder that is not configured, or is down, fails only the queries that need it."""

    def __init__(self, settings: EncoderSettings, decode: Callable[[bytes, int], Pixels] | None = None) -> None:
        """decode: as `preprocess`, which is the default; it is called on threads."""
        self._decode_photo = decode
        self._threads = ThreadPoolExecutor(settings.image_threads, "photo")
        self._channels: list[grpc.aio.Channel] = []
        self._image_batcher: Coalescer[_Photo, EncodedVector] | None = None
        self._text_batcher: Coalescer[_Text, EncodedVector] | None = None
        self._product_batcher: Coalescer[_Product, EncodedVector] | None = None
        self._classify_batcher: Coalescer[_Product, ClassificationResult] | None = None
        self.in_reach: Sequence[EncoderReplica] = ()  # As of the last `poll`.
        self._batch_timeout_s = settings.timeout_s
        self._max_waiting = settings.max_waiting
        if settings.model_server:
            channels = aio_channels(settings.model_server, settings.model_server_connections)
            self._channels += channels
            self._image_encoder = ImageEncoder(
                *channels, model=settings.model, version=settings.model_version, label=settings.model_label
            )
            self._image_breaker = ReportedBreaker(
                "image encoder", "photos are not encoded", max_failures=_MAX_FAILURES, pause_s=_PAUSE_S
            )
            self._image_batcher = self._batcher(
                "image encoder", self._encode_images, settings.image_batch, max_in_flight=settings.image_in_flight
            )
            pinned = self._image_encoder.spec if settings.model_version or settings.model_label else None
            self._image_versions = ImageVersions([settings.model_server], settings.model, pinned)
        if settings.text_encoders:
            self._replicas = text_encoder_replicas(settings.text_encoders)
            self._text_encoder = TextEncoder(self._replicas)
            self._text_batcher = self._batcher("text encoder", self._encode_texts, settings.text_batch)
            # The same processes serve the product encoder, which takes the text encoder's vectors.
            self._product_encoder = ProductEncoder(self._replicas)
            self._product_batcher = self._batcher("product encoder", self._encode_products, PRODUCT_BATCH)
            self._classify_batcher = self._batcher("product encoder", self._classify_products, PRODUCT_BATCH)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)
        await asyncio.gather(*(channel.close() for channel in self._channels))
        if self._image_batcher is not None:
            await self._image_versions.close()
        if self._text_batcher is not None:
            await self._replicas.close()

    async def poll(self, pinned: str) -> None:
        """Ask every replica which encoders it serves: `in_reach`. They keep those of the pinned version for a lease."""
        image, text = await run_concurrently([self._poll_images(), self._poll_texts(pinned)])
        self.in_reach = (*image, *text)

    async def _poll_images(self) -> list[EncoderReplica]:
        if self._image_batcher is None:
            return []
        served = await self._image_versions.poll(POLL_TIMEOUT_S)
        return [
            EncoderReplica(f"image encoder {address}", _IMAGE_SPACES, frozenset(versions))
            for address, versions in served.items()
        ]

    async def _poll_texts(self, pinned: str) -> list[EncoderReplica]:
        if self._text_batcher is None:
            return []
        served = await poll_text_encoders(self._replicas, pinned, POLL_TIMEOUT_S)
        return [
            EncoderReplica(f"text encoder {address}", _TEXT_SPACES, each.fingerprints, each.refusal)
            for address, each in served.items()
        ]

    async def encode_image(self, field: str, data: bytes, deadline: Deadline, fingerprint: str = "") -> EncodedVector:
        """The photo's vector, of unit norm. Raises InvalidRequest for a bad photo, and what `ImageEncoder.encode` does.

        fingerprint, here and below: the encoder that is meant, as the pinned version of the index names it; empty: the
        current one. Where no model server is known to have it, its current one encodes the photo, and the result names
        that.
        Where the model takes another size than it took before, the photo is decoded again; while one version takes the
        place of another, answers of both may come in turn.
        """
        if self._image_batcher is None:
            raise FailedPrecondition("no image encoder is set: photos cannot be encoded")
        if not self._image_breaker.allows():  # Before a photo is decoded in vain.
            raise self._paused()
        for _ in range(_SIZES_TRIED - 1):
            with suppress(WrongInputSize):
                return await self._image_batcher(await self._decode(field, data, deadline, fingerprint), deadline)
        return await self._image_batcher(await self._decode(field, data, deadline, fingerprint), deadline)

    async def _decode(self, field: str, data: bytes, deadline: Deadline, fingerprint: str) -> _Photo:
        """The photo's pixels, in the size that the version of the model takes as far as is known.

        A thread that is decoding at the deadline goes on until it is done; a photo that still waits for a thread then
        is never decoded.
        """
        version = self._image_versions.number(fingerprint)
        side_px, decode = self._image_encoder.input_px(version), self._decode_photo or preprocess
        try:
            async with asyncio.timeout(deadline.timeout_s()):
                pixels = await asyncio.get_running_loop().run_in_executor(self._threads, carried(decode), data, side_px)
        except TimeoutError:
            raise DeadlineExceeded("the deadline passed before the photo was decoded") from None
        except BadImage as error:
            raise InvalidRequest(field, error.reason) from error
        return _Photo(pixels, version, fingerprint)

    async def encode_text(self, text: str, deadline: Deadline, fingerprint: str = "") -> EncodedVector:
        """The text's vector, of unit norm; zeros where the encoder knows no word of it.

        Raises what `TextEncoder.encode` does.
        """
        if self._text_batcher is None:
            raise FailedPrecondition("no text encoder is set: texts cannot be encoded")
        return await self._text_batcher(_Text(text, fingerprint), deadline)

    async def leave_out_words(
        self, text: str, deadline: Deadline, fingerprint: str = ""
    ) -> list[tuple[str, EncodedVector]]:
        """The first 32 words of the text, each with the vector of the text without it; zeros where that says nothing.

        Raises what `TextEncoder.encode` does.
        """
        if self._text_batcher is None:
            raise FailedPrecondition("no text encoder is set: texts cannot be encoded")
        words, rests = await self._text_encoder.leave_out_words(text, deadline, fingerprint)
        vectors = (EncodedVector(vector, rests.encoder) for vector in rests.vectors)
        return [*zip(words, vectors, strict=True)]

    async def encode_product(self, inputs: InputVectors, deadline: Deadline, fingerprint: str = "") -> EncodedVector:
        """The product vector fused from the inputs, of unit norm.

        Raises what `ProductEncoder.encode` does, and FailedPrecondition for inputs of encoders it was not trained on.
        """
        if self._product_batcher is None:
            raise FailedPrecondition("no product encoder is set: products cannot be encoded")
        return await self._product_batcher(_Product(inputs, fingerprint), deadline)

    async def classify(
        self, inputs: InputVectors, precision: float, deadline: Deadline, fingerprint: str = ""
    ) -> ClassificationResult:
        """The product's likeliest categories, with the threshold for `precision`.

        Raises what `ProductEncoder.classify` does, and FailedPrecondition for inputs of encoders it was not trained on.
        """
        if self._classify_batcher is None:
            raise FailedPrecondition("no product encoder is set: products cannot be classified")
        return await self._classify_batcher(_Product(inputs, fingerprint, precision), deadline)

    def _batcher(
        self,
        encoder: str,
        send: Callable[[list[Item], Deadline], Awaitable[Sequence[Reply | Exception]]],
        max_batch: int,
        max_in_flight: int = 2,
    ) -> Coalescer[Item, Reply]:
        """A coalescer that sends batches by `send`. Each caller waits until its own deadline.

        After the time-out of a batch the encoder is Unavailable.
        """

        async def send_in_time(batch: list[Item]) -> Sequence[Reply | Exception]:
            try:
                return await send(batch, Deadline.after(self._batch_timeout_s))
            except DeadlineExceeded as error:
                raise Unavailable(f"{encoder} did not answer in time") from error

        return Coalescer(
            send_in_time,
            max_in_flight=max_in_flight,
            max_batch=max_batch,
            max_waiting=self._max_waiting,
            name=f"ask {encoder}",
        )

    async def _encode_images(
        self, batch: list[_Photo], deadline: Deadline
    ) -> Sequence[EncodedVector | FailedPrecondition]:
        """Photos that were decoded for different versions of the model go in calls of their own."""

        async def encode(photos: list[_Photo]) -> Sequence[EncodedVector]:
            pixels = np.stack([photo.pixels for photo in photos])
            encoded = await self._encode_pixels(pixels, deadline, photos[0].version)
            if photos[0].version and encoded.encoder != photos[0].fingerprint:
                self._image_versions.forget()
            return [EncodedVector(vector, encoded.encoder) for vector in encoded.vectors]

        return await send_groups(batch, [(photo.version, photo.pixels.shape) for photo in batch], encode)

    async def _encode_pixels(self, pixels: Pixels, deadline: Deadline, version: int) -> Embeddings:
        """As `ImageEncoder.encode`, but at once Unavailable while the model server does not answer."""
        breaker = self._image_breaker
        if not breaker.begin():
            raise self._paused()
        try:
            encoded = await self._image_encoder.encode(pixels, deadline, version)
        except (Unavailable, DeadlineExceeded) as error:
            if isinstance(error, WrongInputSize):
                breaker.record_success()
            elif isinstance(error, Hung):
                breaker.trip(error)
            else:
                breaker.record_failure(error)
            raise
        except LookalikeError:
            breaker.record_success()
            raise
        breaker.record_success()
        return encoded

    def _paused(self) -> Unavailable:
        retry_after_s = self._image_breaker.retry_after_s()
        return Unavailable("image encoder: it has not answered lately", retry_after_s=retry_after_s)

    async def _encode_texts(
        self, batch: list[_Text], deadline: Deadline
    ) -> Sequence[EncodedVector | FailedPrecondition]:
        async def encode(texts: list[_Text]) -> Sequence[EncodedVector]:
            encoded = await self._text_encoder.encode([each.text for each in texts], deadline, texts[0].fingerprint)
            return [EncodedVector(vector, encoded.encoder) for vector in encoded.vectors]

        return await send_groups(batch, [each.fingerprint for each in batch], encode)

    async def _encode_products(
        self, batch: list[_Product], deadline: Deadline
    ) -> Sequence[EncodedVector | FailedPrecondition]:
        async def encode(group: list[_Product]) -> Sequence[EncodedVector | FailedPrecondition]:
            products = [_product_input(each.inputs) for each in group]
            fused = await self._product_encoder.encode(products, deadline, group[0].fingerprint)
            return [
                _encoder_mismatch(each.inputs, fused.info) or EncodedVector(vector, fused.info.encoder)
                for each, vector in zip(group, fused.vectors, strict=True)
            ]

        return await send_groups(batch, _groups_of(batch), encode)

    async def _classify_products(
        self, batch: list[_Product], deadline: Deadline
    ) -> Sequence[ClassificationResult | FailedPrecondition]:
        """Nearly all requests have the default precision, and so go in one call."""

        async def classify(group: list[_Product]) -> Sequence[ClassificationResult | FailedPrecondition]:
            products = [_product_input(each.inputs) for each in group]
            likeliest, info = await self._product_encoder.classify(
                products,
                deadline,
                limit=MAX_CATEGORIES,
                precision=group[0].precision,
                fingerprint=group[0].fingerprint,
            )
            return [
                _encoder_mismatch(each.inputs, info) or ClassificationResult(categories, info.encoder)
                for each, categories in zip(group, likeliest, strict=True)
            ]

        return await send_groups(batch, _groups_of(batch), classify)


def _groups_of(batch: Sequence[_Product]) -> list[Hashable]:
    """What the products of one call have in common: encoder and precision, and the encoders of their vectors."""
    inputs = _group_by_encoders([each.inputs for each in batch])
    return [(each.fingerprint, each.precision, encoders) for each, encoders in zip(batch, inputs, strict=True)]


def _group_by_encoders(batch: Sequence[InputVectors]) -> list[tuple[str, str]]:
    """The group of each product: the encoders of its photo vector and its text vector.

    Vectors of different encoders may have different dimensions, so they cannot go in one call. A product without a
    photo, or without a text, joins those that have one, as long as these are all of one encoder.
    """
    photo_encoders = {inputs.image.encoder for inputs in batch if inputs.image}
    text_encoders = {inputs.text.encoder for inputs in batch if inputs.text}
    photo = photo_encoders.pop() if len(photo_encoders) == 1 else ""
    text = text_encoders.pop() if len(text_encoders) == 1 else ""
    return [
        (inputs.image.encoder if inputs.image else photo, inputs.text.encoder if inputs.text else text)
        for inputs in batch
    ]


def _product_input(inputs: InputVectors) -> ProductInput:
    """Texts are sent as vectors: the caller must know whether a text has known words, and its vector's encoder."""
    return ProductInput(
        image=pack(inputs.image.vector) if inputs.image else b"", text=pack(inputs.text.vector) if inputs.text else b""
    )


def _encoder_mismatch(inputs: InputVectors, info: ProductEncoderInfo) -> FailedPrecondition | None:
    """An error if a vector is from another encoder than the product encoder was trained on; else None."""
    for input_name, encoded, expected in (
        ("photo", inputs.image, info.image_encoder),
        ("text", inputs.text, info.text_encoder),
    ):
        if encoded is not None and encoded.encoder != expected:
            return FailedPrecondition(
                f"the {input_name} was encoded by {encoded.encoder}; {info.encoder} takes {expected or 'none'}"
            )
    return None
