"""gRPC client of the product encoder, which runs in the text encoder's process. Calls the network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import grpc
import grpc.aio
import numpy as np

from encoders.text.replicas import TextEncoderReplicas, serves
from lookalike.errors import FailedPrecondition, LookalikeError, Unavailable
from lookalike.runtime.call import outgoing
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
from lookalike.vectors import F32, unpack

MAX_INPUTS = 256  # Per call.


@dataclass(frozen=True, slots=True)
class ProductEncoderInfo:
    """Fingerprints of the product encoder and of the encoders whose vectors it was trained on."""

    encoder: str
    image_encoder: str
    text_encoder: str


@dataclass(frozen=True, slots=True)
class ProductVectors:
    """Product vectors and the encoder that made them."""

    vectors: F32  # (n, dim), rows of unit norm.
    info: ProductEncoderInfo


@dataclass(frozen=True, slots=True)
class CategoryProbabilities:
    """The most likely categories of one product, by descending probability; at least one."""

    categories: Sequence[str]
    values: Sequence[float]
    threshold: float  # The probability from which predictions have the requested precision; 2: none has.


class ProductEncoder:
    """Encodes and classifies products by calls to the replicas of the text encoder's process."""

    def __init__(self, replicas: TextEncoderReplicas) -> None:
        self._replicas = replicas

    async def encode(self, inputs: Sequence[ProductInput], deadline: Deadline, fingerprint: str = "") -> ProductVectors:
        """Encode 1..MAX_INPUTS inputs, one vector each.

        fingerprint: the encoder that is meant; empty: that of the replica's current version.
        Raises FailedPrecondition if no replica serves the encoder, or the inputs have other dimensions;
        Unavailable (also for a response that violates the contract), Overloaded or DeadlineExceeded.
        """
        request = EncodeProductsRequest(inputs=inputs, fingerprint=fingerprint)
        try:
            response = await self._replicas.call(
                lambda stubs: stubs.product.Encode(request, timeout=deadline.timeout_s(), metadata=outgoing()),
                serves(fingerprint),
            )
        except grpc.aio.AioRpcError as error:
            raise _to_error(error, deadline) from error
        return ProductVectors(_vectors(response, len(inputs)), _info(response))

    async def classify(
        self, inputs: Sequence[ProductInput], deadline: Deadline, *, limit: int, precision: float, fingerprint: str = ""
    ) -> tuple[Sequence[CategoryProbabilities], ProductEncoderInfo]:
        """The `limit` most likely categories of each of 1..MAX_INPUTS inputs. Raises as `encode` does."""
        request = ClassifyProductsRequest(inputs=inputs, limit=limit, precision=precision, fingerprint=fingerprint)
        try:
            response = await self._replicas.call(
                lambda stubs: stubs.product.Classify(request, timeout=deadline.timeout_s(), metadata=outgoing()),
                serves(fingerprint),
            )
        except grpc.aio.AioRpcError as error:
            raise _to_error(error, deadline) from error
        if len(response.results) != len(inputs):
            raise Unavailable(f"product encoder: {len(response.results)} results for {len(inputs)} products")
        return [_probabilities(result) for result in response.results], _info(response)


def _to_error(error: grpc.aio.AioRpcError, deadline: Deadline) -> LookalikeError:
    """A missing product encoder, or one for other dimensions, does not go away by retrying: FailedPrecondition."""
    match error.code():
        case grpc.StatusCode.UNIMPLEMENTED:
            return FailedPrecondition("no product encoder is deployed in the text encoder's process")
        case grpc.StatusCode.INVALID_ARGUMENT:
            return FailedPrecondition(f"product encoder: {error.details()}")
    return peer_error(error, "product encoder", deadline)


def _info(response: EncodeProductsResponse | ClassifyProductsResponse) -> ProductEncoderInfo:
    return ProductEncoderInfo(response.fingerprint, response.image_encoder, response.text_encoder)


def _vectors(response: EncodeProductsResponse, count: int) -> F32:
    if not response.dim or len(response.vectors) != 4 * response.dim * count:
        raise Unavailable(
            f"product encoder: {len(response.vectors)} bytes, expected {count} vectors of {response.dim} dimensions"
        )
    vectors = unpack(response.vectors, response.dim)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if not (np.abs(squares - 1) < 2e-3).all():  # Written so that NaN fails too.
        raise Unavailable("product encoder: the vectors are not of unit norm")
    return vectors


def _probabilities(result: RankedCategories) -> CategoryProbabilities:
    values: list[float] = np.frombuffer(result.probabilities, dtype="<f4").tolist()
    if not values or len(values) != len(result.categories):
        raise Unavailable(f"product encoder: {len(values)} probabilities for {len(result.categories)} categories")
    return CategoryProbabilities(tuple(result.categories), values, result.threshold)
