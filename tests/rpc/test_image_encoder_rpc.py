"""The image encoder client over real gRPC: connections, retries and pinned versions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from PIL import Image

from encoders.image.client import ImageEncoder
from encoders.image.prediction_service import PREDICT, to_string_tensor, to_tensor
from encoders.image.signature import DIM, ENCODER, FEATURES
from encoders.serving.policy import All
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.channels import aio_channel, aio_channels
from lookalike.errors import BadSettings, DeadlineExceeded, LookalikeError, Overloaded, Unavailable
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from server.encoding import Encoders
from server.settings import GatewaySettings
from tests.rpc.model_servers import (
    ArithmeticModel,
    images,
    model_server_channel,
    run_model_server,
    until,
    write_version,
)

Predict = Callable[[pb.PredictRequest, grpc.aio.ServicerContext[Any, Any]], Awaitable[pb.PredictResponse]]
UNUSED_ADDRESS = "127.0.0.1:1"
FULL = "The batch scheduling queue to which this task was submitted is full"


@asynccontextmanager
async def run_prediction_server(predict: Predict) -> AsyncIterator[str]:
    """Run a server that calls `predict`, and yield its address."""

    async def call(request: pb.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.PredictResponse:
        return await predict(request, context)

    handler = grpc.unary_unary_rpc_method_handler(
        call, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
    )
    service, method = PREDICT.strip("/").split("/")
    server = edge.server([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


def one_vector() -> pb.PredictResponse:
    return pb.PredictResponse(
        outputs={FEATURES: to_tensor(np.eye(1, DIM, dtype=np.float32)), ENCODER: to_string_tensor([b"mobilenet-a"])}
    )


class FailingServer:
    """Fails the first `times` calls with a status."""

    def __init__(self, code: grpc.StatusCode, details: str = "", *, times: int = 1_000) -> None:
        self.calls = 0
        self._code, self._details, self._times = code, details, times

    async def __call__(
        self, request: pb.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PredictResponse:
        self.calls += 1
        if self.calls <= self._times:
            await context.abort(self._code, self._details)
        return one_vector()


async def test_a_call_whose_connection_fails_is_retried_once_on_another_connection() -> None:
    server = FailingServer(grpc.StatusCode.OK, times=0)
    async with (
        run_prediction_server(server) as address,
        aio_channel(UNUSED_ADDRESS) as broken,
        aio_channel(address) as working,
    ):
        encoder = ImageEncoder(broken, working)
        assert (await encoder.encode(images(0), Deadline.after(5))).encoder == "mobilenet-a"
        await until(lambda: broken.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE)
        for _ in range(20):  # More than the retry budget, so the broken channel is no longer used.
            await encoder.encode(images(0), Deadline.after(5))
    assert server.calls == 21


async def test_an_unavailable_server_is_called_twice_at_most() -> None:
    server = FailingServer(grpc.StatusCode.UNAVAILABLE, "Socket closed")
    async with run_prediction_server(server) as address, aio_channel(address) as channel:
        with pytest.raises(Unavailable, match="Socket closed"):
            await ImageEncoder(channel).encode(images(0), Deadline.after(5))
    assert server.calls == 2


@pytest.mark.parametrize(
    ("code", "details", "error_type"),
    [
        (grpc.StatusCode.UNAVAILABLE, FULL, Overloaded),
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "", Overloaded),
        (grpc.StatusCode.DEADLINE_EXCEEDED, "", Unavailable),
        (grpc.StatusCode.INTERNAL, "", Unavailable),
        (grpc.StatusCode.INVALID_ARGUMENT, "", Unavailable),
        (grpc.StatusCode.NOT_FOUND, "", Unavailable),
        (grpc.StatusCode.FAILED_PRECONDITION, "", Unavailable),
    ],
)
async def test_errors_that_a_retry_cannot_fix_are_not_retried(
    code: grpc.StatusCode, details: str, error_type: type[LookalikeError]
) -> None:
    server = FailingServer(code, details)
    async with run_prediction_server(server) as address, aio_channel(address) as channel:
        with pytest.raises(error_type):
            await ImageEncoder(channel).encode(images(0), Deadline.after(5))
    assert server.calls == 1


async def test_after_many_failures_calls_are_no_longer_retried() -> None:
    server = FailingServer(grpc.StatusCode.UNAVAILABLE, "away", times=16 + 4)
    async with run_prediction_server(server) as address, aio_channel(address) as channel:
        encoder = ImageEncoder(channel)
        for _ in range(16):
            with pytest.raises(Unavailable):
                await encoder.encode(images(0), Deadline.after(5))
        assert server.calls == 16 + 4
        await encoder.encode(images(0), Deadline.after(5))


async def test_nothing_is_retried_after_the_deadline() -> None:
    async def slow(request: pb.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.PredictResponse:
        await asyncio.sleep(5)
        return one_vector()

    async with run_prediction_server(slow) as address, aio_channel(address) as channel:
        with pytest.raises(DeadlineExceeded):
            await ImageEncoder(channel).encode(images(0), Deadline.after(0.1))
        with pytest.raises(DeadlineExceeded):
            await ImageEncoder(channel).encode(images(0), Deadline.after(-1))


async def test_concurrent_calls_are_spread_over_the_connections() -> None:
    peers, barrier = set(), asyncio.Barrier(4)

    async def record_peer(
        request: pb.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> pb.PredictResponse:
        peers.add(context.peer())
        await barrier.wait()
        return one_vector()

    async with run_prediction_server(record_peer) as address:
        channels = aio_channels(address, 2)
        encoder = ImageEncoder(*channels)
        await asyncio.gather(*(encoder.encode(images(0), Deadline.after(5)) for _ in range(4)))
        await asyncio.gather(*(channel.close() for channel in channels))
    assert len(peers) == 2


async def test_a_client_pins_a_version_or_a_label(tmp_path: Path) -> None:
    write_version(tmp_path, 1, 2, 3)
    load = lambda path: ArithmeticModel(f"mobilenet-{path.name}")  # noqa: E731
    async with model_server_channel(tmp_path, load, policy=All(), labels={"stable": 2}) as channel:
        encoders = [ImageEncoder(channel, version=1), ImageEncoder(channel, label="stable"), ImageEncoder(channel)]
        answers = [(await encoder.encode(images(0), Deadline.after(5))).encoder for encoder in encoders]
        assert answers == ["mobilenet-1", "mobilenet-2", "mobilenet-3"]
        assert await encoders[1].status(Deadline.after(5)) == {2: "AVAILABLE"}
        with pytest.raises(Unavailable, match="Unrecognized servable version label"):
            await ImageEncoder(channel, label="canary").encode(images(0), Deadline.after(5))


async def test_version_and_label_together_are_bad_settings() -> None:
    async with aio_channel(UNUSED_ADDRESS) as channel:
        with pytest.raises(BadSettings, match="at most one"):
            ImageEncoder(channel, version=1, label="stable")


async def test_the_gateway_pins_the_configured_version(tmp_path: Path) -> None:
    write_version(tmp_path / "models", 1, 2, 3)
    load = lambda path: ArithmeticModel(f"mobilenet-{path.name}")  # noqa: E731
    photo = io.BytesIO()
    Image.new("RGB", (8, 8)).save(photo, "PNG")

    async def encoder(**version_settings: Any) -> str:
        settings = GatewaySettings(model_server=address, model_server_connections=2, **version_settings)
        encoders = Encoders(settings)
        _, fingerprint = await encoders.encode_image("", photo.getvalue(), Deadline.after(5))
        await encoders.close()
        return fingerprint

    async with run_model_server(tmp_path / "models", load, policy=All(), labels={"stable": 2}) as address:
        assert await encoder() == "mobilenet-3"
        assert await encoder(model_version=1) == "mobilenet-1"
        assert await encoder(model_label="stable") == "mobilenet-2"
        with pytest.raises(BadSettings, match="model_version=1, model_label=stable"):
            await encoder(model_version=1, model_label="stable")
