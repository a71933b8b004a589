"""gRPC client of the text encoder. Calls the network."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio
import numpy as np

from encoders.text.replicas import TextEncoderReplicas, serves
from encoders.types import Embeddings
from lookalike.errors import Unavailable
from lookalike.runtime.call import outgoing
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.v1.text_encoder_pb2 import EncodeTextRequest, LeaveOutWordsRequest
from lookalike.vectors import F32, unpack


class TextEncoder:
    """Encodes texts by calls to the replicas of the text encoder."""

    def __init__(self, replicas: TextEncoderReplicas) -> None:
        self._replicas = replicas

    async def encode(self, texts: Sequence[str], deadline: Deadline, fingerprint: str = "") -> Embeddings:
        """Encode texts to (n, dim) float32, rows of unit norm; zeros for a text without words.

        fingerprint: the encoder that is meant; empty: that of the replica's current version.
        Raises Unavailable (also for a response that violates the contract), Overloaded or DeadlineExceeded;
        FailedPrecondition if no replica serves the encoder.
        """
        request = EncodeTextRequest(texts=texts, fingerprint=fingerprint)
        try:
            response = await self._replicas.call(
                lambda stubs: stubs.text.Encode(request, timeout=deadline.timeout_s(), metadata=outgoing()),
                serves(fingerprint),
            )
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, "text encoder", deadline) from error
        return Embeddings(vectors=_vectors(response.vectors, response.dim, len(texts)), encoder=response.fingerprint)

    async def leave_out_words(
        self, text: str, deadline: Deadline, fingerprint: str = ""
    ) -> tuple[Sequence[str], Embeddings]:
        """The first 32 words of a text, and what the text without each of them is encoded to. Raises as `encode`."""
        request = LeaveOutWordsRequest(text=text, fingerprint=fingerprint)
        try:
            response = await self._replicas.call(
                lambda stubs: stubs.text.LeaveOutWords(request, timeout=deadline.timeout_s(), metadata=outgoing()),
                serves(fingerprint),
            )
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
