"""Run the services of the text encoder process in tests, over real gRPC in this process."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from encoders.text.client import TextEncoder
from encoders.text.replicas import text_encoder_replicas
from encoders.text_serving import product_service, text_service
from encoders.text_serving.encoder_set import EncoderSet, ServedEncoders, served_encoders
from encoders.text_serving.encoder_thread import EncoderThread
from lookalike.releases.served_versions import VersionHandle
from lookalike.runtime import edge
from tests.rpc.gateways import serving


@dataclass(frozen=True)
class TextEncoderServer:
    """A running server."""

    address: str
    thread: EncoderThread


def serving_one(encoders: EncoderSet) -> ServedEncoders:
    """These encoders, as those of one version without a name."""
    served = served_encoders(lease_s=30)
    served.add(VersionHandle("", encoders))
    return served


@asynccontextmanager
async def run_text_encoder(
    served: ServedEncoders, *, max_batch: int = 64, max_waiting: int = 4096
) -> AsyncIterator[TextEncoderServer]:
    thread = EncoderThread(max_waiting)
    text = text_service.TextEncoderService(served, thread, max_batch)
    product = product_service.ProductEncoderService(served, thread)
    try:
        async with serving(
            edge.handler(text_service.SERVICE, text.methods()),
            edge.handler(product_service.SERVICE, product.methods()),
        ) as address:
            yield TextEncoderServer(address, thread)
    finally:
        thread.close()


@asynccontextmanager
async def text_client(address: str) -> AsyncIterator[TextEncoder]:
    replicas = text_encoder_replicas([address])
    try:
        yield TextEncoder(replicas)
    finally:
        await replicas.close()
