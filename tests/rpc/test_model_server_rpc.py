"""The model server's protocol and bounds over real gRPC, with a model made of arithmetic."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt
import pytest

from encoders.model_server import ModelServer
from encoders.models import Exported
from encoders.prediction_service import PREDICT, strings, tensor
from encoders.signature import DIM, ENCODER, FEATURES
from encoders.tfserving import MAX_IMAGES, ImageEncoder
from lookalike import rpc
from lookalike.deadline import Deadline
from lookalike.errors import DeadlineGone, Overloaded, Unavailable
from lookalike.vectors import F32
from protos.tfserving.v1 import prediction_pb2 as pb

FOUND = Exported(path=Path("models/mobilenet/3"), version=3, encoder="mobilenet-0123456789ab")


class Arithmetic:
    """An image's vector points along the axis that its first byte names; `gate` holds a run back."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def load(self) -> None:
        self.gate.wait(10)

    def __call__(self, images: npt.NDArray[np.uint8]) -> F32:
        self.batches.append(len(images))
        assert self.gate.wait(10)
        return np.eye(DIM, dtype=np.float32)[images[:, 0, 0, 0]]


def images(*axes: int) -> npt.NDArray[np.uint8]:
    pixels = np.zeros((len(axes), 224, 224, 3), np.uint8)
    pixels[:, 0, 0, 0] = axes
    return pixels


@asynccontextmanager
async def served(model: Arithmetic, *, ready: bool = True, **bounds: int) -> AsyncIterator[grpc.aio.Channel]:
    server = ModelServer(model, FOUND, **{"max_batch": 4, "max_waiting": 8, **bounds})
    grpc_server = rpc.server(server.handlers())
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    if ready:
        await server.warm_up()
    try:
        async with rpc.channel(f"127.0.0.1:{port}") as channel:
            yield channel
    finally:
        model.gate.set()
        await grpc_server.stop(None)
        server.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # what is awaited happens on a thread without an event
            await asyncio.sleep(0.002)


async def test_every_caller_gets_its_own_rows_in_its_order() -> None:
    async with served(Arithmetic()) as channel:
        encoder = ImageEncoder(channel)
        asked = [(5, 1), (2,), (7, 8, 9), (0,)]
        answers = await asyncio.gather(*(encoder.encode(images(*axes), Deadline.after(5)) for axes in asked))
    assert [tuple(answer.vectors.argmax(axis=1)) for answer in answers] == asked
    assert {answer.encoder for answer in answers} == {FOUND.encoder}


async def test_requests_that_wait_share_a_batch_of_bounded_size() -> None:
    model = Arithmetic()
    async with served(model) as channel:
        encoder = ImageEncoder(channel)
        model.gate.clear()
        first = asyncio.create_task(encoder.encode(images(0), Deadline.after(5)))
        await until(lambda: model.batches)
        rest = [asyncio.create_task(encoder.encode(images(n, n), Deadline.after(5))) for n in range(3)]
        await asyncio.sleep(0.2)
        model.gate.set()
        await asyncio.gather(first, *rest)
    assert model.batches == [1, 4, 2]


async def test_more_images_than_a_batch_are_split_and_come_back_whole() -> None:
    model = Arithmetic()
    async with served(model) as channel:
        answer = await ImageEncoder(channel).encode(images(*range(11)), Deadline.after(5))
    assert answer.vectors.argmax(axis=1).tolist() == list(range(11))
    assert model.batches == [4, 4, 3]


async def test_as_many_images_as_a_message_holds_are_taken() -> None:
    async with served(Arithmetic()) as channel:
        answer = await ImageEncoder(channel).encode(images(*range(MAX_IMAGES)), Deadline.after(30))
    assert answer.vectors.shape == (MAX_IMAGES, DIM)


async def test_beyond_the_bound_on_waiting_images_is_refused_at_once() -> None:
    model = Arithmetic()
    async with served(model, max_waiting=4) as channel:
        encoder = ImageEncoder(channel)
        model.gate.clear()
        running = asyncio.create_task(encoder.encode(images(0), Deadline.after(5)))
        await until(lambda: model.batches)
        waiting = asyncio.create_task(encoder.encode(images(1, 2, 3, 4), Deadline.after(5)))
        await asyncio.sleep(0.2)
        with pytest.raises(Overloaded):
            await encoder.encode(images(5), Deadline.after(5))
        model.gate.set()
        await asyncio.gather(running, waiting)


async def test_a_deadline_that_passes_is_the_callers_error() -> None:
    model = Arithmetic()
    async with served(model) as channel:
        model.gate.clear()
        with pytest.raises(DeadlineGone):
            await ImageEncoder(channel).encode(images(0), Deadline.after(0.1))


async def test_a_model_that_is_being_loaded_says_so() -> None:
    async with served(Arithmetic(), ready=False) as channel:
        encoder = ImageEncoder(channel)
        assert await encoder.status(Deadline.after(5)) == {3: "LOADING"}
        with pytest.raises(Unavailable, match="being loaded"):
            await encoder.encode(images(0), Deadline.after(5))


async def test_a_server_that_is_not_there_is_unavailable() -> None:
    async with rpc.channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await ImageEncoder(channel).encode(images(0), Deadline.after(5))


async def test_an_unknown_model_is_a_fault_of_the_deployment_and_not_of_who_asked() -> None:
    async with served(Arithmetic()) as channel:
        with pytest.raises(Unavailable, match="NOT_FOUND"):
            await ImageEncoder(channel, model="resnet").encode(images(0), Deadline.after(5))
        with pytest.raises(Unavailable, match="NOT_FOUND"):
            await ImageEncoder(channel, model="resnet").status(Deadline.after(5))


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((0, 224, 224, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8)],
)
async def test_pixels_of_another_shape_never_leave_the_process(pixels: Any) -> None:
    async with rpc.channel("127.0.0.1:1") as channel:
        with pytest.raises(ValueError, match="are no 1"):
            await ImageEncoder(channel).encode(pixels, Deadline.after(5))


@asynccontextmanager
async def answering(**outputs: pb.TensorProto) -> AsyncIterator[ImageEncoder]:
    """A server that answers every request with these outputs."""

    async def predict(request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        return pb.PredictResponse(outputs=outputs)

    handler = grpc.unary_unary_rpc_method_handler(
        predict, pb.PredictRequest.FromString, pb.PredictResponse.SerializeToString
    )
    service, method = PREDICT.strip("/").split("/")
    server = rpc.server([grpc.method_handlers_generic_handler(service, {method: handler})])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with rpc.channel(f"127.0.0.1:{port}") as channel:
            yield ImageEncoder(channel)
    finally:
        await server.stop(None)


UNIT = np.eye(DIM, dtype=np.float32)
NAMES = strings([b"mobilenet-a", b"mobilenet-a"])


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (tensor(UNIT[:2]), strings([b"mobilenet-a", b"mobilenet-b"])),
        (tensor(UNIT[:2]), strings([b"mobilenet-a"])),
        (tensor(UNIT[:2]), tensor(np.zeros(2, np.float32))),
        (tensor(UNIT[:3]), NAMES),
        (tensor(UNIT[:2, :512].copy()), NAMES),
        (tensor(UNIT[:2] * 2), NAMES),
        (tensor(UNIT[:2] * np.float32("nan")), NAMES),
        (tensor(np.zeros((2, DIM), np.float32)), NAMES),
        (tensor(UNIT[:2].astype(np.float64)), NAMES),
        (pb.TensorProto(dtype=pb.DT_FLOAT), NAMES),
    ],
)
async def test_an_answer_that_breaks_the_signature_is_not_believed(
    features: pb.TensorProto, names: pb.TensorProto
) -> None:
    async with answering(**{FEATURES: features, ENCODER: names}) as encoder:
        with pytest.raises(Unavailable, match="not the answer of an image model"):
            await encoder.encode(images(0, 1), Deadline.after(5))


async def test_features_outside_tensor_content_are_read_too() -> None:
    """TF-Serving writes float_val unless it is told otherwise."""
    features = tensor(UNIT[:2])
    features.tensor_content = b""
    features.float_val.extend(UNIT[:2].ravel().tolist())
    async with answering(**{FEATURES: features, ENCODER: NAMES}) as encoder:
        answer = await encoder.encode(images(0, 1), Deadline.after(5))
    np.testing.assert_array_equal(answer.vectors, UNIT[:2])
