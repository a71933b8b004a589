"""gRPC client of the image encoder, in TensorFlow-Serving's protocol. Calls the network."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt
from google.protobuf.message import DecodeError
from prometheus_client import Counter

from encoders.image.prediction_service import (
    GET_MODEL_METADATA,
    GET_MODEL_STATUS,
    PREDICT,
    BadTensor,
    to_array,
    to_tensor,
)
from encoders.image.signature import DEFAULT_INPUT_PX, ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.tfserving.v1 import prediction_pb2 as pb
from encoders.tfserving.v1 import saved_model_pb2
from encoders.types import Embeddings
from lookalike.errors import BadSettings, LookalikeError, Overloaded, Unavailable
from lookalike.limits import MAX_MESSAGE_BYTES
from lookalike.runtime import tracing
from lookalike.runtime.call import outgoing
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.runtime.hang_guard import HangGuard
from lookalike.runtime.retry_budget import RetryBudget
from lookalike.vectors import F32

ResponseT = TypeVar("ResponseT", pb.PredictResponse, pb.GetModelStatusResponse, pb.GetModelMetadataResponse)
Pixels = npt.NDArray[np.uint8]  # (n, px, px, 3)

_SIGNATURE_DEF = "signature_def"

RETRIES = Counter("lookalike_image_encoder_retries_total", "Calls to the model server that were retried.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModel:
    """What the served version takes and gives."""

    version: int
    input_px: int  # Width and height of the images.
    dimension: int


class WrongInputSize(Unavailable):
    """The version that is served takes images of another size: decode them to `ImageEncoder.input_px` again."""


def max_images(input_px: int) -> int:
    """As many images as fit in a message: 221 of 224 px."""
    return MAX_MESSAGE_BYTES // (input_px * input_px * 3) - 1


class ImageEncoder:
    """Encodes images by calls to a model of TF-Serving or of the embedded model server.

    channels: to the same servers (`lookalike.channels.aio_channels`); a call takes the one with the fewest in flight.
    version, label: pin a version by number or by label; neither: the latest. Raises BadSettings for both.
    """

    def __init__(self, *channels: grpc.aio.Channel, model: str = MODEL, version: int = 0, label: str = "") -> None:
        if version and label:
            raise BadSettings(f"model_version={version}, model_label={label}: at most one of them")
        self.spec = pb.ModelSpec(name=model)  # Of calls that mean no version in particular.
        if label:
            self.spec.version_label = label
        if version:
            self.spec.version.value = version
        self._channels = [_Channel(channel) for channel in channels]
        self._retry_budget = RetryBudget()
        self._models: dict[int, ImageModel] = {}  # By the version that was asked for; 0: none in particular.

    def input_px(self, version: int = 0) -> int:
        """Width and height of the images that the model took when it was last asked; before that, a guess."""
        return self._models[version].input_px if version in self._models else DEFAULT_INPUT_PX

    async def model(self, deadline: Deadline, version: int = 0) -> ImageModel:
        """What the model takes and gives: asked once, and again when another version answers. Raises as `encode`."""
        if version not in self._models:
            self._models[version] = await self._describe(self._spec_of(version), deadline)
        return self._models[version]

    async def encode(self, pixels: Pixels, deadline: Deadline, version: int = 0) -> Embeddings:
        """Encode uint8 images of the model's size to (n, dim) float32 of unit norm. Splits what exceeds a message.

        version: that this call means; 0: the client's own.
        Raises Unavailable (also for a response that violates the signature), Overloaded, DeadlineExceeded or
        InternalError;
        WrongInputSize if the version that is served takes another size.
        """
        if pixels.dtype != np.uint8 or not _are_square(pixels) or not len(pixels):
            raise ValueError(f"expected at least one square image of RGB bytes, not {pixels.dtype} {pixels.shape}")
        size = max_images(pixels.shape[1])
        starts = range(0, len(pixels), size)
        parts = [await self._encode(pixels[start : start + size], deadline, version) for start in starts]
        if len({part.encoder for part in parts}) != 1:
            raise Unavailable("image encoder: its version changed between two calls")
        return parts[0] if len(parts) == 1 else replace(parts[0], vectors=np.concatenate([p.vectors for p in parts]))

    async def _encode(self, pixels: Pixels, deadline: Deadline, version: int) -> Embeddings:
        model, side_px = await self.model(deadline, version), pixels.shape[1]
        if side_px != model.input_px:
            raise _wrong_size(side_px, model)
        request = predict_request(self._spec_of(version), pixels)
        try:
            response = await self._call(
                lambda channel: channel.predict(request, timeout=deadline.timeout_s(), metadata=outgoing()), deadline
            )
        except _Refused:
            # The embedded server refuses images of another size than its version's.
            model = self._models[version] = await self._describe(self._spec_of(version), deadline)
            if side_px != model.input_px:
                raise _wrong_size(side_px, model) from None
            raise
        answered = response.model_spec.version.value
        if answered != model.version:
            # TF-Serving computes features of images of any size: only the version tells that they are not right.
            model = self._models[version] = await self._describe(model_spec(self.spec.name, answered), deadline)
            if side_px != model.input_px:
                raise _wrong_size(side_px, model)
        try:
            vectors = _vectors(response, (len(pixels), model.dimension))
            return Embeddings(vectors=vectors, encoder=parse_fingerprint(response, len(pixels)))
        except BadTensor as error:
            what = "image encoder: not a response of an image model"
            raise Unavailable(f"{what}: {error}").hidden_as(what) from error

    def _spec_of(self, version: int) -> pb.ModelSpec:
        return model_spec(self.spec.name, version) if version else self.spec

    async def _describe(self, spec: pb.ModelSpec, deadline: Deadline) -> ImageModel:
        request = metadata_request(spec)
        response = await self._call(lambda channel: channel.metadata(request, timeout=deadline.timeout_s()), deadline)
        try:
            return parse_model(response)
        except (BadTensor, DecodeError) as error:
            message = (
                f"image encoder: version {response.model_spec.version.value} of {spec.name} is not an image model of "
                f"'lookalike encoders export': {error}"
            )
            raise Unavailable(message).hidden_as("image encoder: it does not serve an image model") from error

    async def status(self, deadline: Deadline) -> Mapping[int, str]:
        """The state of each version of the model, or of the pinned one: {3: "AVAILABLE"}. Raises as `encode` does."""
        request = pb.GetModelStatusRequest(model_spec=self.spec)
        response = await self._call(lambda channel: channel.status(request, timeout=deadline.timeout_s()), deadline)
        states = pb.ModelVersionStatus.State
        return {
            entry.version: states.Name(entry.state) if entry.state in states.values() else "UNKNOWN"
            for entry in response.model_version_status
        }

    async def _call(self, call: Callable[[_Channel], Awaitable[ResponseT]], deadline: Deadline) -> ResponseT:
        """Call once, and retry once on another channel if the connection fails: all methods are idempotent."""
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
            with tracing.span("call model server", tracing.Kind.CLIENT):
                response = await channel.guard.call(call(channel))
        finally:
            channel.in_flight -= 1
        self._retry_budget.record_success()
        return response

    def _least_busy(self, channels: list[_Channel]) -> _Channel:
        return min(channels or self._channels, key=_Channel.load)


class ModelServerStub:
    """The methods of a model server that are called."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self.predict = channel.unary_unary(
            PREDICT,
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )
        self.metadata = channel.unary_unary(
            GET_MODEL_METADATA,
            request_serializer=pb.GetModelMetadataRequest.SerializeToString,
            response_deserializer=pb.GetModelMetadataResponse.FromString,
        )
        self.status = channel.unary_unary(
            GET_MODEL_STATUS,
            request_serializer=pb.GetModelStatusRequest.SerializeToString,
            response_deserializer=pb.GetModelStatusResponse.FromString,
        )


class _Channel(ModelServerStub):
    """One gRPC channel, and its calls in flight."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)
        self._channel = channel
        self.guard = HangGuard(channel, "image encoder")
        self.in_flight = 0

    def load(self) -> tuple[bool, int]:
        """Sort key for the least busy channel. A broken one, which fails fast and so is never busy, comes last."""
        return self._channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE, self.in_flight


def model_spec(name: str, version: int) -> pb.ModelSpec:
    """The spec of a version by number."""
    spec = pb.ModelSpec(name=name)
    spec.version.value = version
    return spec


def predict_request(spec: pb.ModelSpec, pixels: Pixels) -> pb.PredictRequest:
    """A request for the features of images, and who computed them."""
    request = pb.PredictRequest(model_spec=spec, inputs={IMAGES: to_tensor(pixels)}, output_filter=[FEATURES, ENCODER])
    request.model_spec.signature_name = SIGNATURE
    return request


def metadata_request(spec: pb.ModelSpec) -> pb.GetModelMetadataRequest:
    return pb.GetModelMetadataRequest(model_spec=spec, metadata_field=[_SIGNATURE_DEF])


class _Refused(Unavailable):
    """The server refuses the request as invalid, which is a fault of the deployment."""


def _wrong_size(side_px: int, model: ImageModel) -> WrongInputSize:
    return WrongInputSize(
        f"image encoder: version {model.version} takes images of {model.input_px} px, these were decoded to {side_px}"
    )


def _are_square(pixels: Pixels) -> bool:
    return pixels.ndim == 4 and pixels.shape[1] == pixels.shape[2] and pixels.shape[3] == 3  # RGB


def parse_model(response: pb.GetModelMetadataResponse) -> ImageModel:
    """The sizes in the signature. Raises BadTensor or DecodeError unless it is that of an image model."""
    packed = response.metadata[_SIGNATURE_DEF].value
    signature = saved_model_pb2.SignatureDefMap.FromString(packed).signature_def[SIGNATURE]
    images, features = (
        [dim.size for dim in tensor.tensor_shape.dim]
        for tensor in (signature.inputs[IMAGES], signature.outputs[FEATURES])
    )
    match images, features:
        case [[_, input_px, width_px, 3], [_, dimension]] if input_px == width_px > 0 and dimension > 0:
            return ImageModel(version=response.model_spec.version.value, input_px=input_px, dimension=dimension)
    raise BadTensor(f"its signature {SIGNATURE} has {IMAGES} {images} and {FEATURES} {features}")


def _connection_failed(error: grpc.aio.AioRpcError) -> bool:
    """Whether the connection failed. A full batch queue is UNAVAILABLE too, but not a failed connection."""
    return error.code() is grpc.StatusCode.UNAVAILABLE and not _queue_full(error)


def _queue_full(error: grpc.aio.AioRpcError) -> bool:
    """TF-Serving's batcher says UNAVAILABLE "The batch scheduling queue … is full" (shared_batch_scheduler.h)."""
    return "batch scheduling queue" in (error.details() or "")


def _to_error(error: grpc.aio.AioRpcError, deadline: Deadline) -> LookalikeError:
    """Map a status to an error: as `peer_error`, apart from what TF-Serving means by another code.

    A missing model or another signature is a fault of the deployment, or a model that is still loading: Unavailable.
    """
    code, message = error.code(), f"image encoder: {error.code().name}: {error.details()}"
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or _queue_full(error):
        return Overloaded(message).hidden_as("image encoder: its queue is full")
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        return _Refused(message).hidden_as("image encoder: it refuses the photo")
    if code in {grpc.StatusCode.NOT_FOUND, grpc.StatusCode.FAILED_PRECONDITION}:
        return Unavailable(message).hidden_as("image encoder: it does not serve the model")
    return peer_error(error, "image encoder", deadline)


def _output(response: pb.PredictResponse, name: str, dtype: int, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    if name not in response.outputs:
        raise BadTensor(f"no output {name}")
    values = to_array(response.outputs[name])
    if response.outputs[name].dtype != dtype or values.shape != shape:
        raise BadTensor(f"{name} is {values.dtype} {values.shape}, expected the shape {shape}")
    return values


def _vectors(response: pb.PredictResponse, shape: tuple[int, int]) -> F32:
    vectors = _output(response, FEATURES, pb.DT_FLOAT, shape).astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if not (np.abs(norms - 1) < 1e-3).all():  # Written so that NaN fails too.
        raise BadTensor(f"{FEATURES} are not of unit norm")
    return vectors


def parse_fingerprint(response: pb.PredictResponse, count: int) -> str:
    fingerprints = set(_output(response, ENCODER, pb.DT_STRING, (count,)).tolist())
    if len(fingerprints) != 1:
        raise BadTensor(f"{len(fingerprints)} encoders in one response")
    return str(fingerprints.pop(), "ascii", "replace")
