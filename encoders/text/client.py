"""The text encoder at the other end of a channel: a gRPC client."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio
import numpy as np

from encoders.types import Encoded
from lookalike.errors import Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.edge import peer_error
from lookalike.v1.text_encoder_pb2 import EncodeTextRequest, EncodeTextResponse
from lookalike.v1.text_encoder_pb2_grpc import TextEncoderStub
from lookalike.vectors import F32, unpack


class TextEncoder:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TextEncoderStub(channel)

    async def encode(self, texts: Sequence[str], deadline: Deadline) -> Encoded:
        """(n, dim) unit rows; zeros for a text with nothing to encode.

        Raises Unavailable (also for an answer that is not what the contract promises), Overloaded or DeadlineExceeded.
        """
        try:
            reply = await self._stub.Encode(EncodeTextRequest(texts=texts), timeout=deadline.timeout_s())
        except grpc.aio.AioRpcError as error:
            raise peer_error(error, "text encoder", deadline) from error
        return Encoded(vectors=_vectors(reply, len(texts)), encoder=reply.fingerprint)


def _vectors(reply: EncodeTextResponse, count: int) -> F32:
    if not reply.dim or len(reply.vectors) != 4 * reply.dim * count:
        raise Unavailable(f"text encoder: {len(reply.vectors)} bytes are not {count} vectors of {reply.dim}")
    vectors = unpack(reply.vectors, reply.dim)
    squares = np.einsum("ij,ij->i", vectors, vectors)
    if not ((np.abs(squares - 1) < 2e-3) | (squares == 0)).all():  # Written so that NaN fails too.
        raise Unavailable("text encoder: vectors that are neither of unit length nor zero")
    return vectors
