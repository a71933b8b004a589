"""gRPC client of the text encoder. Calls the network."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio
import numpy as np

from encoders.types import Embeddings
from lookalike.errors import Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.v1.text_encoder_pb2 import EncodeTextRequest, LeaveOutWordsRequest
from lookalike.v1.text_encoder_pb2_grpc import TextEncoderStub
from lookalike.vectors import F32, unpack


class TextEncoder:
    """Encodes texts by calls to the text encoder at `channel`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TextEncoderStub(channel)

    async def encode(self, texts: Sequence[str], deadline: Deadline) -> Embeddings:
        """Encode texts to (n, dim) float32, rows of unit norm; zeros for a text without words.

        Raises Unavailable (also for a response that violates the contract), Overloaded or DeadlineExceeded.
        """
        try:
            response = await self._stub.Encode(EncodeTextRequest(texts=texts), timeout=deadline.timeout_s())
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, "text encoder", deadline) from error
        return Embeddings(vectors=_vectors(response.vectors, response.dim, len(texts)), encoder=response.fingerprint)

    async def leave_out_words(self, text: str, deadline: Deadline) -> tuple[Sequence[str], Embeddings]:
        """The first 32 words of a text, and what the text without each of them is encoded to. Raises as `encode`."""
        try:
            response = await self._stub.LeaveOutWords(LeaveOutWordsRequest(text=text), timeout=deadline.timeout_s())
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, "text encoder", deadline) from error
        vectors = _vectors(response.vectors, response.dim, len(response.words))
        return response.words, Embeddings(vectors=vectors, encoder=response.fingerprint)


def _vectors(data: bytes, dim: int, count: int) -> F32:
    if not dim or len(data) != 4 * dim * count:
        raise Unavailable(f"text encoder: {len(data)} bytes, expected {count} vectors of {dim} dimensions")
    vectors = unpack(data, dim)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if not ((np.abs(squares - 1) < 2e-3) | (squares == 0)).all():  # Written so that NaN fails too.
        raise Unavailable("text encoder: the vectors are neither of unit norm nor zero")
    return vectors
