"""The image encoder at the other end of TensorFlow-Serving's protocol: a gRPC client."""

from __future__ import annotations

from collections.abc import Mapping

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from encoders.images import SIDE_PX
from encoders.prediction_service import GET_MODEL_STATUS, PREDICT, BadTensor, array, tensor
from encoders.signature import DIM, ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.types import Encoded
from lookalike.deadline import Deadline
from lookalike.errors import DeadlineGone, LookalikeError, Overloaded, Unavailable
from lookalike.rpc import MESSAGE_BYTES
from lookalike.vectors import F32
from protos.tfserving.v1 import prediction_pb2 as pb

MAX_IMAGES = MESSAGE_BYTES // (SIDE_PX * SIDE_PX * 3) - 1  # 221: as many as a message holds.


class ImageEncoder:
    """Pixels to vectors by the model of that name at `channel`: TF-Serving, or the embedded model server."""

    def __init__(self, channel: grpc.aio.Channel, *, model: str = MODEL) -> None:
        self._model = model
        self._predict = channel.unary_unary(
            PREDICT,
            request_serializer=pb.PredictRequest.SerializeToString,
            response_deserializer=pb.PredictResponse.FromString,
        )
        self._status = channel.unary_unary(
            GET_MODEL_STATUS,
            request_serializer=pb.GetModelStatusRequest.SerializeToString,
            response_deserializer=pb.GetModelStatusResponse.FromString,
        )

    async def encode(self, pixels: npt.NDArray[np.uint8], deadline: Deadline) -> Encoded:
        """One vector for each of (n, 224, 224, 3) uint8 images, n in 1..MAX_IMAGES.

        Raises Unavailable (also for an answer that is not what the signature promises), Overloaded or DeadlineGone.
        """
        if pixels.dtype != np.uint8 or pixels.shape[1:] != (SIDE_PX, SIDE_PX, 3) or not 1 <= len(pixels) <= MAX_IMAGES:
            raise ValueError(f"{pixels.dtype} {pixels.shape} are no 1..{MAX_IMAGES} images of 224 × 224 RGB bytes")
        request = pb.PredictRequest(
            model_spec=pb.ModelSpec(name=self._model, signature_name=SIGNATURE),
            inputs={IMAGES: tensor(pixels)},
            output_filter=[FEATURES, ENCODER],
        )
        try:
            response = await self._predict(request, timeout=_timeout_s(deadline))
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from error
        try:
            return Encoded(vectors=_vectors(response, len(pixels)), encoder=_fingerprint(response, len(pixels)))
        except BadTensor as error:
            raise Unavailable(f"image encoder: not the answer of an image model: {error}") from error

    async def status(self, deadline: Deadline) -> Mapping[int, str]:
        """The state of each version of the model: {3: "AVAILABLE"}. Raises as `encode` does."""
        request = pb.GetModelStatusRequest(model_spec=pb.ModelSpec(name=self._model))
        try:
            response = await self._status(request, timeout=_timeout_s(deadline))
        except grpc.aio.AioRpcError as error:
            raise _meaning(error) from error
        states = pb.ModelVersionStatus.State
        return {
            entry.version: states.Name(entry.state) if entry.state in states.values() else "UNKNOWN"
            for entry in response.model_version_status
        }


def _timeout_s(deadline: Deadline) -> float | None:
    remaining_s = deadline.remaining_s()
    return None if remaining_s == float("inf") else remaining_s


def _meaning(error: grpc.aio.AioRpcError) -> LookalikeError:
    """A model that is unknown there, or another signature, is a fault of the deployment and not of who asked us."""
    code, said = error.code(), f"image encoder: {error.code().name}: {error.details()}"
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineGone(said)
    # TF-Serving's batcher says UNAVAILABLE "The batch scheduling queue … is full" (shared_batch_scheduler.h).
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED or "batch scheduling queue" in (error.details() or ""):
        return Overloaded(said)
    return Unavailable(said)


def _output(response: pb.PredictResponse, name: str, dtype: int, shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    if name not in response.outputs:
        raise BadTensor(f"no output {name}")
    values = array(response.outputs[name])
    if response.outputs[name].dtype != dtype or values.shape != shape:
        raise BadTensor(f"{name} is {values.dtype} {values.shape}, not {shape}")
    return values


def _vectors(response: pb.PredictResponse, count: int) -> F32:
    vectors = _output(response, FEATURES, pb.DT_FLOAT, (count, DIM)).astype(np.float32, copy=False)
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors))
    if not (np.abs(norms - 1) < 1e-3).all():  # Written so that NaN fails too.
        raise BadTensor(f"{FEATURES} are not of unit length")
    return vectors


def _fingerprint(response: pb.PredictResponse, count: int) -> str:
    fingerprints = set(_output(response, ENCODER, pb.DT_STRING, (count,)).tolist())
    if len(fingerprints) != 1:
        raise BadTensor(f"{len(fingerprints)} models made one answer")
    return str(fingerprints.pop(), "ascii", "replace")
