"""The product encoder at the other end of a channel, in the text encoder's process: a gRPC client."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
import numpy as np

from lookalike.errors import FailedPrecondition, LookalikeError, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.v1.product_encoder_pb2 import (
    ClassifyProductsRequest,
    ClassifyProductsResponse,
    EncodeProductsRequest,
    EncodeProductsResponse,
    ProductInput,
    RankedCategories,
)
from lookalike.v1.product_encoder_pb2_grpc import ProductEncoderStub
from lookalike.vectors import F32, unpack

MAX_INPUTS = 256  # In one call.


@dataclass(frozen=True, slots=True)
class Trained:
    """Which product encoder answered, and the encoders whose vectors it was trained on: fingerprints."""

    encoder: str
    image_encoder: str
    text_encoder: str


@dataclass(frozen=True, slots=True)
class Fused:
    vectors: F32  # (n, dim), rows of unit norm.
    by: Trained


@dataclass(frozen=True, slots=True)
class Probabilities:
    """The likeliest categories of one product, by falling probability: at least one."""

    categories: Sequence[str]
    values: Sequence[float]
    threshold: float  # From this probability on answers were as precise as was asked for; 2: never.


class ProductEncoder:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = ProductEncoderStub(channel)

    async def encode(self, inputs: Sequence[ProductInput], deadline: Deadline) -> Fused:
        """One vector for each of 1..MAX_INPUTS inputs.

        Raises FailedPrecondition where no product encoder is deployed or the inputs are of other dimensions;
        Unavailable (also for an answer that is not what the contract promises), Overloaded or DeadlineExceeded.
        """
        try:
            reply = await self._stub.Encode(EncodeProductsRequest(inputs=inputs), timeout=deadline.timeout_s())
        except grpc.aio.AioRpcError as error:
            raise _meaning(error, deadline) from error
        return Fused(_vectors(reply, len(inputs)), _trained(reply))

    async def classify(
        self, inputs: Sequence[ProductInput], deadline: Deadline, *, limit: int, precision: float
    ) -> tuple[Sequence[Probabilities], Trained]:
        """For each of 1..MAX_INPUTS inputs its `limit` likeliest categories. Raises as `encode` does."""
        request = ClassifyProductsRequest(inputs=inputs, limit=limit, precision=precision)
        try:
            reply = await self._stub.Classify(request, timeout=deadline.timeout_s())
        except grpc.aio.AioRpcError as error:
            raise _meaning(error, deadline) from error
        if len(reply.results) != len(inputs):
            raise Unavailable(f"product encoder: {len(reply.results)} answers for {len(inputs)} products")
        return [_probabilities(result) for result in reply.results], _trained(reply)


def _meaning(error: grpc.aio.AioRpcError, deadline: Deadline) -> LookalikeError:
    """A process without a product encoder, or one trained on vectors of other dimensions, is there and stays so."""
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return FailedPrecondition("no product encoder is deployed: the text encoder's process serves none")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return FailedPrecondition(f"product encoder: {error.details()}")
    return peer_error(error, "product encoder", deadline)


def _trained(reply: EncodeProductsResponse | ClassifyProductsResponse) -> Trained:
    return Trained(reply.fingerprint, reply.image_encoder, reply.text_encoder)


def _vectors(reply: EncodeProductsResponse, count: int) -> F32:
    if not reply.dim or len(reply.vectors) != 4 * reply.dim * count:
        raise Unavailable(f"product encoder: {len(reply.vectors)} bytes are not {count} vectors of {reply.dim}")
    vectors = unpack(reply.vectors, reply.dim)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if not (np.abs(squares - 1) < 2e-3).all():  # Written so that NaN fails too.
        raise Unavailable("product encoder: vectors that are not of unit length")
    return vectors


def _probabilities(result: RankedCategories) -> Probabilities:
    values: list[float] = np.frombuffer(result.probabilities, dtype="<f4").tolist()
    if not values or len(values) != len(result.categories):
        raise Unavailable(f"product encoder: {len(values)} probabilities of {len(result.categories)} categories")
    return Probabilities(tuple(result.categories), values, result.threshold)
