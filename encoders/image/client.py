"""gRPC client of the image encoder, in TensorFlow-Serving's protocol. Calls the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from prometheus_client import Counter

from encoders.image.prediction_service import GET_MODEL_STATUS, PREDICT, BadTensor, to_array, to_tensor
from encoders.image.preprocessing import SIDE_PX
from encoders.image.retry_budget import RetryBudget
from encoders.image.signature import DIM, ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.tfserving.v1 import prediction_pb2 as pb
from encoders.types import Embeddings
from lookalike.errors import BadSettings, LookalikeError, Overloaded, Unavailable
from lookalike.limits import MAX_MESSAGE_BYTES
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.vectors import F32

ResponseT = TypeVar("ResponseT", pb.PredictResponse, pb.GetModelStatusResponse)

MAX_IMAGES = MAX_MESSAGE_BYTES // (SIDE_PX * SIDE_PX * 3) - 1  # 221: as many as fit in a message.


RETRIES = Counter("lookalike_image_encoder_retries_total", "Calls to the model server that were retried.")


class ImageEncoder:
    """Encodes images by calls to a model of TF-Serving or of the embedded model server.

    channels: to the same servers (`lookalike.channels.aio_channels`); a call takes the one with the fewest in flight.
    version, label: pin a version by number or by label; neither: the latest. Raises BadSettings for both.
    """

    def __init__(self, *channels: grpc.aio.Channel, model: str = MODEL, version: int = 0, label: str = "") -> None:
        if version and label:
            raise BadSettings(f"model_version={version}, model_label={label}: at most one of them")
        self._spec = pb.ModelSpec(name=model)
        if label:
            self._spec.version_label = label
        if version:
            self._spec.version.value = version
        self._channels = [_Channel(channel) for channel in channels]
        self._retry_budget = RetryBudget()

    async def encode(self, pixels: npt.NDArray[np.uint8], deadline: Deadline) -> Embeddings:
        """Encode (n, 224, 224, 3) uint8 images, n in 1..MAX_IMAGES, to (n, 1024) float32 of unit norm.

        Raises Unavailable (also for a response that violates the signature), Overloaded or DeadlineExceeded.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE_PX, SIDE_PX, 3) or not 1 <= len(pixels) <= MAX_IMAGES:
            raise ValueError(
                f"expected 1..{MAX_IMAGES} images of 224 × 224 RGB bytes, not {pixels.dtype} {pixels.shape}"
            )
        request = pb.PredictRequest(
            model_spec=self._spec, inputs={IMAGES: to_tensor(pixels)}, output_filter=[FEATURES, ENCODER]
        )
        request.model_spec.signature_name = SIGNATURE
        response = await self._call(lambda channel: channel.predict(request, timeout=deadline.timeout_s()), deadline)
        try:
            return Embeddings(vectors=_vectors(response, len(pixels)), encoder=_fingerprint(response, len(pixels)))
        except BadTensor as error:
            raise Unavailable(f"image encoder: not a response of an image model: {error}") from error

    async def status(self, deadline: Deadline) -> Mapping[int, str]:
        """The state of each version of the model, or of the pinned one: {3: "AVAILABLE"}. Raises as `encode` does."""
        request = pb.GetModelStatusRequest(model_spec=self._spec)
        response = await self._call(lambda channel: channel.status(request, timeout=deadline.timeout_s()), deadline)
        states = pb.ModelVersionStatus.State
        return {
            entry.version: states.Name(entry.state) if entry.state in states.values() else "UNKNOWN"
            for entry in response.model_version_status
        }

    async def _call(self, call: Callable[[_Channel], Awaitable[ResponseT]], deadline: Deadline) -> ResponseT:
        """Call once, and retry once on another channel if the connection fails: both methods are idempotent."""
        channel = self._least_busy(self._channels)
        try:
            return await self._send(channel, call)
        except grpc.aio.AioRpcError as error:
            if not (_connection_failed(error) and self._retry_budget.record_failure()):
                raise _to_error(error, deadline) from error
        RETRIES.inc()
        try:
            return await self._send(self._least_busy([other for other in self._channels if other is not channel]), call)
        except grpc.aio.AioRpcError as error:
            raise _to_error(error, deadline) from error

    async def _send(self, channel: _Channel, call: Callable[[_Channel], Awaitable[ResponseT]]) -> ResponseT:
        channel.in_flight += 1
        try:
            response = await call(channel)
        finally:
            channel.in_flight -= 1
        self._retry_budget.record_success()
        return response

    def _least_busy(self, channels: list[_Channel]) -> _Channel:
        return min(channels or self._channels, key=_Channel.load)


class _Channel:
    """One gRPC channel: its two methods, and its calls in flight."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._channel = channel
        self.in_flight = 0
        self.predict = channel.unary_unary(
            PREDICT,
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )
        self.status = channel.unary_unary(
            GET_MODEL_STATUS,
            request_serializer=pb.GetModelStatusRequest.SerializeToString,
            response_deserializer=pb.GetModelStatusResponse.FromString,
        )

    def load(self) -> tuple[bool, int]:
        """Sort key for the least busy channel. A broken one, which fails fast and so is never busy, comes last."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE, self.in_flight


def _connection_failed(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection failed. A full batch queue is UNAVAILABLE too, but not a failed connection."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and not _queue_full(error)


def _queue_full(error: grpc.aio.AioRpcError) -> bool:
    """TF-Serving's batcher says UNAVAILABLE "The batch scheduling queue … is full" (shared_batch_scheduler.h)."""
    return "batch scheduling queue" in (error.details() or "")


def _to_error(error: grpc.aio.AioRpcError, deadline: Deadline) -> LookalikeError:
    """Map a status to an error. A missing model or another signature is a fault of the deployment: Unavailable.

    DEADLINE_EXCEEDED is DeadlineExceeded only if the caller's own deadline has passed, else Unavailable.
    """
    code, message = error.code(), f"image encoder: {error.code().name}: {error.details()}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return peer_error(error, "image encoder", deadline)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or _queue_full(error):
        return Overloaded(message)
    return Unavailable(message)


def _output(response: pb.PredictResponse, name: str, dtype: int, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    if name not in response.outputs:
        raise BadTensor(f"no output {name}")
    values = to_array(response.outputs[name])
    if response.outputs[name].dtype != dtype or values.shape != shape:
        raise BadTensor(f"{name} is {values.dtype} {values.shape}, expected the shape {shape}")
    return values


def _vectors(response: pb.PredictResponse, count: int) -> F32:
    vectors = _output(response, FEATURES, pb.DT_FLOAT, (count, DIM)).astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if not (np.abs(norms - 1) < 1e-3).all():  # Written so that NaN fails too.
        raise BadTensor(f"{FEATURES} are not of unit norm")
    return vectors


def _fingerprint(response: pb.PredictResponse, count: int) -> str:
    fingerprints = set(_output(response, ENCODER, pb.DT_STRING, (count,)).tolist())
    if len(fingerprints) != 1:
        raise BadTensor(f"{len(fingerprints)} encoders in one response")
    return str(fingerprints.pop(), "ascii", "replace")
