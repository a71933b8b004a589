"""The replicas of the text encoder process, and which encoders each of them serves. Calls the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import grpc.aio

from lookalike.runtime.call import outgoing
from lookalike.runtime.replicas import Replicas, Resolve, resolve_address
from lookalike.v1.product_encoder_pb2_grpc import ProductEncoderStub
from lookalike.v1.text_encoder_pb2 import DescribeEncodersRequest
from lookalike.v1.text_encoder_pb2_grpc import TextEncoderStub

if TYPE_CHECKING:  # Only the type stubs tell them apart.
    from lookalike.v1.product_encoder_pb2_grpc import ProductEncoderAsyncStub
    from lookalike.v1.text_encoder_pb2_grpc import TextEncoderAsyncStub


class EncoderStubs(NamedTuple):
    """The services of a text encoder process."""

    text: TextEncoderAsyncStub
    product: ProductEncoderAsyncStub


@dataclass(frozen=True, slots=True)
class ServedEncoders:
    """What a replica serves."""

    fingerprints: frozenset[str]  # Of text and product encoders.
    refusal: str = ""  # Why the encoders of CURRENT are not among them.


TextEncoderReplicas = Replicas[EncoderStubs, ServedEncoders]


def text_encoder_replicas(
    addresses: Sequence[str], resolve: Resolve = resolve_address, clock: Callable[[], float] = time.monotonic
) -> TextEncoderReplicas:
    return Replicas(addresses, _connect, resolve, clock)


async def poll_text_encoders(
    replicas: TextEncoderReplicas, pinned: str, timeout_s: float
) -> Mapping[str, ServedEncoders]:
    """What each replica in reach serves, by address. They keep the encoders of the pinned version for their lease."""

    async def describe(stubs: EncoderStubs) -> ServedEncoders:
        response = await stubs.text.Describe(
            DescribeEncodersRequest(pinned=pinned), timeout=timeout_s, metadata=outgoing()
        )
        states = [state for version in response.versions for state in (version.text, version.product)]
        return ServedEncoders(frozenset(each.fingerprint for each in states if each.fingerprint), response.refusal)

    return await replicas.poll(describe)


def serves(fingerprint: str) -> Callable[[ServedEncoders], bool]:
    """Whether a replica serves an encoder; empty: any will do."""
    return lambda served: not fingerprint or fingerprint in served.fingerprints


def _connect(channel: grpc.aio.Channel) -> EncoderStubs:
    return EncoderStubs(TextEncoderStub(channel), ProductEncoderStub(channel))
