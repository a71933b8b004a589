"""The image encoder client over real gRPC: connections, retries and pinned versions."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from PIL import Image

from encoders.clients import Encoders, EncoderSettings
from encoders.image.client import ImageEncoder, WrongInputSize
from encoders.image.prediction_service import to_string_tensor, to_tensor
from encoders.image.signature import ENCODER, FEATURES
from encoders.serving.policy import All
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.channels import aio_channel, aio_channels
from lookalike.errors import BadSettings, DeadlineExceeded, InternalError, LookalikeError, Overloaded, Unavailable
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from server.settings import GatewaySettings
from tests.rpc.model_servers import (
    DIM,
    ArithmeticModel,
    Predict,
    images,
    metadata_response,
    model_server_channel,
    prediction_service,
    run_model_server,
    until,
    write_version,
)

UNUSED_ADDRESS = "127.0.0.1:1"
FULL = "The batch scheduling queue to which this task was submitted is full"


@asynccontextmanager
async def run_prediction_server(predict: Predict) -> AsyncIterator[str]:
    """Run a server that calls `predict`, and yield its address."""

    async def call(request: pb.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]) -> pb.PredictResponse:
        return await predict(request, context)

    server = edge.server([prediction_service(call)])
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
        (grpc.StatusCode.INTERNAL, "", InternalError),
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
        encoders = Encoders(settings.encoders())
        _, fingerprint = await encoders.encode_image("", photo.getvalue(), Deadline.after(5))
        await encoders.close()
        return fingerprint

    async with run_model_server(tmp_path / "models", load, policy=All(), labels={"stable": 2}) as address:
        assert await encoder() == "mobilenet-3"
        assert await encoder(model_version=1) == "mobilenet-1"
        assert await encoder(model_label="stable") == "mobilenet-2"
        with pytest.raises(BadSettings, match="model_version=1, model_label=stable"):
            await encoder(model_version=1, model_label="stable")


def a_photo() -> bytes:
    photo = io.BytesIO()
    Image.new("RGB", (64, 64), (3, 0, 0)).save(photo, "PNG")  # ArithmeticModel reads the axis from the red channel.
    return photo.getvalue()


async def test_the_gateway_decodes_photos_to_the_size_of_the_model_and_takes_its_dimension(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    load = lambda path: ArithmeticModel("shopnet-1", input_px=48, dim=8)  # noqa: E731
    async with run_model_server(tmp_path, load) as address:
        encoders = Encoders(EncoderSettings(model_server=address))
        encoded = await encoders.encode_image("", a_photo(), Deadline.after(5))
        await encoders.close()
    assert encoded.encoder == "shopnet-1"
    np.testing.assert_array_equal(encoded.vector, np.eye(8, dtype=np.float32)[3])


async def test_if_the_server_changes_to_a_model_of_another_size_no_photo_fails(tmp_path: Path) -> None:
    write_version(tmp_path, 1)
    models = {"1": ArithmeticModel("shopnet-1", input_px=48, dim=8), "2": ArithmeticModel("shopnet-2", dim=16)}
    async with run_model_server(tmp_path, lambda path: models[path.name], poll_s=0.01) as address:
        encoders = Encoders(EncoderSettings(model_server=address))
        fingerprints: list[str] = []

        async def encode() -> bool:
            batch = await asyncio.gather(*(encoders.encode_image("", a_photo(), Deadline.after(10)) for _ in range(8)))
            fingerprints.extend(encoded.encoder for encoded in batch)
            assert all(encoded.vector.argmax() == 3 for encoded in batch)
            return fingerprints[-1] == "shopnet-2"

        assert not await encode()
        write_version(tmp_path, 2)
        async with asyncio.timeout(10):
            while not await encode():
                pass
        assert await encode()
        await encoders.close()
    # Of calls that are under way at once some may be answered by the old version after others by the new one.
    assert fingerprints[:8] == ["shopnet-1"] * 8
    assert fingerprints[-8:] == ["shopnet-2"] * 8


class Versions:
    """A TF-Serving that computes features of images of any size, as it does, whatever the signature says."""

    def __init__(self) -> None:
        self.version, self.input_px, self.dim = 1, 48, 8
        self.described = 0

    async def predict(self, request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        features = to_tensor(np.eye(1, self.dim, dtype=np.float32))
        outputs = {FEATURES: features, ENCODER: to_string_tensor([f"shopnet-{self.version}".encode()])}
        response = pb.PredictResponse(outputs=outputs)
        response.model_spec.version.value = self.version
        return response

    def describe(self) -> pb.GetModelMetadataResponse:
        self.described += 1
        return metadata_response(self.input_px, self.dim, version=self.version)


@asynccontextmanager
async def serving(versions: Versions) -> AsyncIterator[ImageEncoder]:
    server = edge.server([prediction_service(versions.predict, versions.describe)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio_channel(f"127.0.0.1:{port}") as channel:
            yield ImageEncoder(channel)
    finally:
        await server.stop(None)


async def test_features_of_images_of_another_size_than_the_version_takes_are_not_used() -> None:
    versions, pixels = Versions(), images(0, side_px=48)
    async with serving(versions) as encoder:
        for _ in range(3):
            assert (await encoder.encode(pixels, Deadline.after(5))).encoder == "shopnet-1"
        assert versions.described == 1
        versions.version, versions.input_px = 2, 64
        with pytest.raises(WrongInputSize, match="version 2 takes images of 64 px, these were decoded to 48"):
            await encoder.encode(pixels, Deadline.after(5))
        assert (await encoder.model(Deadline.after(5))).input_px == 64
        with pytest.raises(WrongInputSize):
            await encoder.encode(pixels, Deadline.after(5))
        assert (await encoder.encode(images(0, side_px=64), Deadline.after(5))).encoder == "shopnet-2"
        assert versions.described == 2


async def test_a_new_version_of_the_same_size_and_another_dimension_is_taken_at_once() -> None:
    versions, pixels = Versions(), images(0, side_px=48)
    async with serving(versions) as encoder:
        assert (await encoder.encode(pixels, Deadline.after(5))).vectors.shape == (1, 8)
        versions.version, versions.dim = 2, 16
        assert (await encoder.encode(pixels, Deadline.after(5))).vectors.shape == (1, 16)


async def test_features_of_another_dimension_than_the_signature_states_are_refused() -> None:
    versions = Versions()
    async with serving(versions) as encoder:
        await encoder.model(Deadline.after(5))
        versions.dim = 16
        with pytest.raises(Unavailable, match=r"features is float32 \(1, 16\), expected the shape \(1, 8\)"):
            await encoder.encode(images(0, side_px=48), Deadline.after(5))


@pytest.mark.parametrize("shape", [(0, 8), (48, 0)])
async def test_a_model_without_the_signature_is_unavailable_with_the_command_that_exports_one(
    shape: tuple[int, int],
) -> None:
    versions = Versions()
    versions.input_px, versions.dim = shape
    async with serving(versions) as encoder:
        with pytest.raises(Unavailable, match=r"version 1 of mobilenet is not an image model of 'lookalike enc"):
            await encoder.model(Deadline.after(5))
