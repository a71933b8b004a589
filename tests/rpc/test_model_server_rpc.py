"""The model server's protocol and bounds over real gRPC, with an arithmetic fake model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders.image.client import ImageEncoder, max_images
from encoders.image.prediction_service import to_string_tensor, to_tensor
from encoders.image.signature import DEFAULT_INPUT_PX, ENCODER, FEATURES
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.channels import aio_channel
from lookalike.errors import DeadlineExceeded, InternalError, Overloaded, Unavailable
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from tests.rpc.model_servers import (
    DIM,
    ArithmeticModel,
    images,
    model_server_channel,
    prediction_service,
    until,
    write_version,
)

Serve = Any  # (model, **batching) -> a channel to a server of it


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    write_version(tmp_path, 3)
    models = []

    def serve_model(model: ArithmeticModel, **options: Any) -> AbstractAsyncContextManager[grpc.aio.Channel]:
        models.append(model)
        return model_server_channel(tmp_path, lambda path: model, **options)

    yield serve_model
    for model in models:
        model.gate.set()


async def test_every_caller_gets_its_own_rows_in_order(serve: Serve) -> None:
    async with serve(ArithmeticModel()) as channel:
        encoder = ImageEncoder(channel)
        axes_of_requests = [(5, 1), (2,), (7, 8, 9), (0,)]
        responses = await asyncio.gather(
            *(encoder.encode(images(*axes), Deadline.after(5)) for axes in axes_of_requests)
        )
    assert [tuple(response.vectors.argmax(axis=1)) for response in responses] == axes_of_requests
    assert {response.encoder for response in responses} == {ArithmeticModel().encoder}


async def test_waiting_requests_share_a_batch_of_bounded_size(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model) as channel:
        encoder = ImageEncoder(channel)
        model.gate.clear()
        first = asyncio.create_task(encoder.encode(images(0), Deadline.after(5)))
        await until(lambda: model.batches)
        rest = [asyncio.create_task(encoder.encode(images(n, n), Deadline.after(5))) for n in range(3)]
        await asyncio.sleep(0.2)
        model.gate.set()
        await asyncio.gather(first, *rest)
    assert model.batches == [1, 4, 2]


async def test_a_request_larger_than_a_batch_is_split_and_reassembled(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model) as channel:
        response = await ImageEncoder(channel).encode(images(*range(11)), Deadline.after(5))
    assert response.vectors.argmax(axis=1).tolist() == list(range(11))
    assert model.batches == [4, 4, 3]


async def test_more_images_than_fit_in_a_message_are_sent_in_several(serve: Serve) -> None:
    count = max_images(DEFAULT_INPUT_PX)
    assert count == 221
    pixels = np.concatenate([images(*range(count)), images(7, 8)])
    async with serve(ArithmeticModel()) as channel:
        response = await ImageEncoder(channel).encode(pixels, Deadline.after(30))
    assert response.vectors.argmax(axis=1).tolist() == [*range(count), 7, 8]


async def test_without_splitting_a_request_larger_than_a_batch_is_refused(serve: Serve) -> None:
    async with serve(ArithmeticModel(), max_batch_size=4, enable_large_batch_splitting=False) as channel:
        encoder = ImageEncoder(channel)
        assert len((await encoder.encode(images(0, 1, 2, 3), Deadline.after(5))).vectors) == 4
        with pytest.raises(
            Unavailable, match=r"INVALID_ARGUMENT.*Task size 5 is larger than maximum input batch size 4"
        ):
            await encoder.encode(images(0, 1, 2, 3, 4), Deadline.after(5))


async def test_beyond_max_enqueued_batches_a_request_is_refused_at_once(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model, max_enqueued_batches=1) as channel:
        encoder = ImageEncoder(channel)
        model.gate.clear()
        running = asyncio.create_task(encoder.encode(images(0), Deadline.after(5)))
        await until(lambda: model.batches)
        waiting = asyncio.create_task(encoder.encode(images(1, 2, 3, 4), Deadline.after(5)))
        await asyncio.sleep(0.2)
        with pytest.raises(
            Overloaded, match="UNAVAILABLE: The batch scheduling queue to which this task was submitted"
        ):
            await encoder.encode(images(5), Deadline.after(5))
        model.gate.set()
        await asyncio.gather(running, waiting)


async def test_a_partial_batch_waits_for_more_until_its_timeout(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model, batch_timeout_micros=10_000_000) as channel:
        encoder = ImageEncoder(channel)
        first = asyncio.create_task(encoder.encode(images(0, 1), Deadline.after(5)))
        await asyncio.sleep(0.2)
        assert model.batches == []
        await asyncio.gather(first, encoder.encode(images(2, 3), Deadline.after(5)))
    assert model.batches == [4]


async def test_a_partial_batch_runs_after_its_timeout(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model, batch_timeout_micros=1000) as channel:
        await ImageEncoder(channel).encode(images(0), Deadline.after(5))
    assert model.batches == [1]


async def test_batches_run_concurrently_on_all_threads(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model, num_batch_threads=2) as channel:
        encoder = ImageEncoder(channel)
        model.gate.clear()
        calls = [asyncio.create_task(encoder.encode(images(n), Deadline.after(5))) for n in range(3)]
        await until(lambda: len(model.batches) == 2)
        await asyncio.sleep(0.1)
        assert len(model.batches) == 2
        model.gate.set()
        await asyncio.gather(*calls)


async def test_a_batch_is_padded_to_an_allowed_size_and_the_padding_is_removed(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model, allowed_batch_sizes=(2, 4)) as channel:
        response = await ImageEncoder(channel).encode(images(6, 7, 8), Deadline.after(5))
    assert model.batches == [4]
    assert response.vectors.argmax(axis=1).tolist() == [6, 7, 8]


async def test_abandoned_requests_are_not_run(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model) as channel:
        encoder = ImageEncoder(channel)
        model.gate.clear()
        running = asyncio.create_task(encoder.encode(images(0), Deadline.after(5)))
        await until(lambda: model.batches)
        with pytest.raises(DeadlineExceeded):
            await encoder.encode(images(1, 2, 3, 4), Deadline.after(0.1))
        waiting = asyncio.create_task(encoder.encode(images(5), Deadline.after(5)))
        await asyncio.sleep(0.2)
        model.gate.set()
        await asyncio.gather(running, waiting)
    assert model.batches == [1, 1]


async def test_a_model_error_fails_its_batch_and_the_next_one_runs(serve: Serve) -> None:
    class Broken(ArithmeticModel):
        def __call__(self, images: Any) -> Any:
            if images[0, 0, 0, 0] == 9:
                raise RuntimeError("a broken image")
            return super().__call__(images)

    async with serve(Broken()) as channel:
        encoder = ImageEncoder(channel)
        with pytest.raises(InternalError, match="INTERNAL"):
            await encoder.encode(images(9), Deadline.after(5))
        assert len((await encoder.encode(images(0), Deadline.after(5))).vectors) == 1


async def test_a_passed_deadline_is_deadline_exceeded(serve: Serve) -> None:
    model = ArithmeticModel()
    async with serve(model) as channel:
        model.gate.clear()
        with pytest.raises(DeadlineExceeded):
            await ImageEncoder(channel).encode(images(0), Deadline.after(0.1))


async def test_a_missing_server_is_unavailable() -> None:
    async with aio_channel("127.0.0.1:1") as channel:
        with pytest.raises(Unavailable):
            await ImageEncoder(channel).encode(images(0), Deadline.after(5))


async def test_an_unknown_model_is_unavailable_not_a_fault_of_the_caller(serve: Serve) -> None:
    async with serve(ArithmeticModel()) as channel:
        with pytest.raises(Unavailable, match="NOT_FOUND"):
            await ImageEncoder(channel, model="resnet").encode(images(0), Deadline.after(5))
        with pytest.raises(Unavailable, match="NOT_FOUND"):
            await ImageEncoder(channel, model="resnet").status(Deadline.after(5))


@pytest.mark.parametrize(
    "pixels",
    [np.zeros((0, 224, 224, 3), np.uint8), np.zeros((1, 224, 224, 3), np.float32), np.zeros((224, 224, 3), np.uint8)],
)
async def test_pixels_that_are_not_square_rgb_bytes_are_refused_by_the_client(pixels: Any) -> None:
    async with aio_channel("127.0.0.1:1") as channel:
        with pytest.raises(ValueError, match="expected at least one square image"):
            await ImageEncoder(channel).encode(pixels, Deadline.after(5))


@asynccontextmanager
async def scripted_encoder(**outputs: pb.TensorProto) -> AsyncIterator[ImageEncoder]:
    """A client of a server that answers every request with these outputs."""

    async def predict(request: pb.PredictRequest, context: Any) -> pb.PredictResponse:
        return pb.PredictResponse(outputs=outputs)

    server = edge.server([prediction_service(predict)])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with aio_channel(f"127.0.0.1:{port}") as channel:
            yield ImageEncoder(channel)
    finally:
        await server.stop(None)


UNIT = np.eye(DIM, dtype=np.float32)
NAMES = to_string_tensor([b"mobilenet-a", b"mobilenet-a"])


@pytest.mark.parametrize(
    ("features", "names"),
    [
        (to_tensor(UNIT[:2]), to_string_tensor([b"mobilenet-a", b"mobilenet-b"])),
        (to_tensor(UNIT[:2]), to_string_tensor([b"mobilenet-a"])),
        (to_tensor(UNIT[:2]), to_tensor(np.zeros(2, np.float32))),
        (to_tensor(UNIT[:3]), NAMES),
        (to_tensor(UNIT[:2, :512].copy()), NAMES),
        (to_tensor(UNIT[:2] * 2), NAMES),
        (to_tensor(UNIT[:2] * np.float32("nan")), NAMES),
        (to_tensor(np.zeros((2, DIM), np.float32)), NAMES),
        (to_tensor(UNIT[:2].astype(np.float64)), NAMES),
        (pb.TensorProto(dtype=pb.DT_FLOAT), NAMES),
    ],
)
async def test_a_response_that_violates_the_signature_is_unavailable(
    features: pb.TensorProto, names: pb.TensorProto
) -> None:
    async with scripted_encoder(**{FEATURES: features, ENCODER: names}) as encoder:
        with pytest.raises(Unavailable, match="not a response of an image model"):
            await encoder.encode(images(0, 1), Deadline.after(5))


async def test_features_in_float_val_are_read_too() -> None:
    """TF-Serving writes float_val by default."""
    features = to_tensor(UNIT[:2])
    features.tensor_content = b""
    features.float_val.extend(UNIT[:2].ravel().tolist())
    async with scripted_encoder(**{FEATURES: features, ENCODER: NAMES}) as encoder:
        response = await encoder.encode(images(0, 1), Deadline.after(5))
    np.testing.assert_array_equal(response.vectors, UNIT[:2])
