"""The text encoder at the other end of a channel: a gRPC client."""

from __future__ import annotations

from collections.abc import Sequence

import grpc.aio

from encoders.types import Encoded
from lookalike import rpc
from lookalike.deadline import Deadline
from lookalike.vectors import unpack
from protos.lookalike.v1.text_encoder_pb2 import EncodeTextRequest
from protos.lookalike.v1.text_encoder_pb2_grpc import TextEncoderStub


class TextEncoder:
    def __init__(self, channel: grpc.aio.Channel) -> None:
        self._stub = TextEncoderStub(channel)

    async def encode(self, texts: Sequence[str], deadline: Deadline) -> Encoded:
        """(n, dim) unit rows; zeros for a text with nothing to encode. Raises Unavailable, Overloaded, DeadlineGone."""
        try:
            reply = await self._stub.Encode(EncodeTextRequest(texts=texts), timeout=deadline.timeout_s())
        except grpc.aio.AioRpcError as error:
            raise rpc.error_of(error, "text encoder", deadline) from error
        return Encoded(vectors=unpack(reply.vectors, reply.dim), encoder=reply.fingerprint)
