"""The product encoder service over real gRPC, in the text encoder's process."""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders.product import model as product_model
from encoders.product import train as train_product
from encoders.product.model import ProductModel
from encoders.text import model as text_model
from encoders.text import train as train_text
from encoders.text.model import TextModel
from encoders.text_serving import server as text_server
from encoders.text_serving.loader import load_artifacts
from encoders.text_serving.product_service import MAX_INPUTS
from encoders.text_serving.settings import TextEncoderSettings
from lookalike.channels import aio_channel
from lookalike.errors import BadArtifact, BadSettings
from lookalike.local import probes
from lookalike.v1 import product_encoder_pb2 as pb
from lookalike.v1 import product_encoder_pb2_grpc, text_encoder_pb2_grpc
from lookalike.v1.text_encoder_pb2 import EncodeTextRequest
from lookalike.vectors import pack, unpack
from tests.rpc.text_encoders import run_text_encoder, serving_one
from tests.unit.encoders.synthetic_products import make_products

TITLES = ["red dress", "blue dress", "white mug", "black mug", "wooden table", "赤い靴"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a text encoder, text/, and a product encoder trained on its vectors, product/."""
    folder = tmp_path_factory.mktemp("encoders")
    train_text.train(TITLES, folder / "text", dim=16)
    products, model = make_products(), text_model.load(folder / "text")
    words = [int(category[-1]) for category in products.categories]  # The text part of each category, 0 to 2.
    vectors = model.encode([TITLES[2 * word] for word in words])
    training_products = dataclasses.replace(products, texts=vectors, text_encoder=model.fingerprint)
    train_product.train(training_products, folder / "product")
    return folder


@pytest.fixture(scope="module")
def text_encoder(artifacts: Path) -> TextModel:
    return text_model.load(artifacts / "text")


@pytest.fixture(scope="module")
def model(artifacts: Path) -> ProductModel:
    return product_model.load(artifacts / "product")


@pytest.fixture
async def stub(artifacts: Path) -> AsyncIterator[product_encoder_pb2_grpc.ProductEncoderAsyncStub]:
    encoders = load_artifacts(artifacts / "text", artifacts / "product")
    async with run_text_encoder(serving_one(encoders)) as server, aio_channel(server.address) as channel:
        yield product_encoder_pb2_grpc.ProductEncoderStub(channel)


def photo(row: int = 0) -> bytes:
    return pack(make_products().images[row])


async def test_encode_returns_the_models_vectors_and_its_fingerprints(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel, text_encoder: TextModel
) -> None:
    title = text_encoder.encode(["red dress"])
    inputs = [
        pb.ProductInput(image=photo(), text=pack(title)),
        pb.ProductInput(image=photo()),
        pb.ProductInput(text=pack(title)),
    ]
    response = await stub.Encode(pb.EncodeProductsRequest(inputs=inputs))
    image = unpack(photo(), model.image_dim)
    expected = [
        model.encode(image, title),
        model.encode(image, title * 0),
        model.encode(image * 0, title),
    ]
    np.testing.assert_allclose(unpack(response.vectors, response.dim), np.concatenate(expected), atol=1e-5)
    assert (response.fingerprint, response.dim) == (model.fingerprint, model.dim)
    assert (response.image_encoder, response.text_encoder) == (model.image_encoder, text_encoder.fingerprint)


async def test_an_encoder_that_is_not_served_is_refused_with_those_that_are(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel
) -> None:
    inputs = [pb.ProductInput(image=photo())]
    named = await stub.Encode(pb.EncodeProductsRequest(inputs=inputs, fingerprint=model.fingerprint))
    assert named.fingerprint == model.fingerprint
    with pytest.raises(grpc.aio.AioRpcError) as encode_error:
        await stub.Encode(pb.EncodeProductsRequest(inputs=inputs, fingerprint="product-0"))
    classify = pb.ClassifyProductsRequest(inputs=inputs, limit=1, precision=0.9, fingerprint="product-0")
    with pytest.raises(grpc.aio.AioRpcError) as classify_error:
        await stub.Classify(classify)
    for error in (encode_error.value, classify_error.value):
        assert error.code() is grpc.StatusCode.FAILED_PRECONDITION
        assert error.details() == f"this process serves the product encoder {model.fingerprint}, not product-0"


async def test_categories_come_with_probabilities_and_the_threshold_of_their_modality(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel, text_encoder: TextModel
) -> None:
    inputs = [
        pb.ProductInput(image=photo(), text=pack(text_encoder.encode(["red dress"]))),
        pb.ProductInput(image=photo()),
    ]
    response = await stub.Classify(pb.ClassifyProductsRequest(inputs=inputs, limit=2, precision=0.8))
    both, image = response.results
    assert len(both.categories) == 2
    assert set(both.categories) <= set(model.categories)
    first, second = np.frombuffer(both.probabilities, "<f4")
    assert 1 >= first >= second >= 0
    assert image.threshold > both.threshold
    assert response.fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], f"0 products, expected 1..{MAX_INPUTS}"),
        ([pb.ProductInput(text=b"1234")] * (MAX_INPUTS + 1), f"{MAX_INPUTS + 1} products"),
        ([pb.ProductInput()], "inputs[0]: has neither image nor text"),
        ([pb.ProductInput(text=b"1234")], "inputs[0].text: 4 bytes, expected 1048 for a vector of"),
        ([pb.ProductInput(image=photo()), pb.ProductInput(image=b"1234")], "inputs[1].image: 4 bytes"),
        ([pb.ProductInput(image=bytes(96))], "inputs[0].image: is not of unit norm"),
        ([pb.ProductInput(image=np.full(24, np.nan, "<f4").tobytes())], "inputs[0].image: is not of unit norm"),
    ],
)
async def test_an_invalid_input_is_refused_and_named(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, inputs: list[pb.ProductInput], message: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Encode(pb.EncodeProductsRequest(inputs=inputs))
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert message in str(raised.value.details())


@pytest.mark.parametrize(("limit", "precision"), [(0, 0.9), (1, 0.4), (1, 1.0), (1, float("nan"))])
async def test_an_invalid_precision_or_limit_is_refused(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, limit: int, precision: float
) -> None:
    request = pb.ClassifyProductsRequest(inputs=[pb.ProductInput(image=photo())], limit=limit, precision=precision)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await stub.Classify(request)
    assert raised.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_concurrent_callers_each_get_their_own_vectors(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel
) -> None:
    async def encode_one(row: int) -> bytes:
        return (await stub.Encode(pb.EncodeProductsRequest(inputs=[pb.ProductInput(image=photo(row))]))).vectors

    responses = await asyncio.gather(*(encode_one(row) for row in range(24)))
    images = make_products().images[:24]
    expected = model.encode(images, np.zeros((24, model.text_dim), np.float32))
    np.testing.assert_allclose(np.concatenate([unpack(vector, model.dim) for vector in responses]), expected, atol=1e-5)


async def start_server(settings: TextEncoderSettings) -> tuple[asyncio.Task[None], str]:
    (port,) = probes.free_ports(1)
    with_address = dataclasses.replace(settings, host="127.0.0.1", port=port)
    return asyncio.create_task(text_server.serve(with_address)), f"127.0.0.1:{port}"


async def test_a_process_without_a_product_encoder_says_so_and_serves_texts(artifacts: Path) -> None:
    server_task, address = await start_server(TextEncoderSettings(artifact=artifacts / "text"))
    try:
        async with aio_channel(address) as channel:
            stub = product_encoder_pb2_grpc.ProductEncoderStub(channel)
            text_stub = text_encoder_pb2_grpc.TextEncoderStub(channel)
            await until_serving(address)
            assert (await text_stub.Encode(EncodeTextRequest(texts=["red dress"]), timeout=20)).vectors
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await stub.Encode(pb.EncodeProductsRequest(inputs=[pb.ProductInput(image=photo())]), timeout=20)
            assert raised.value.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert raised.value.details() == "this process has no product encoder"
    finally:
        server_task.cancel()
        await asyncio.wait([server_task])


async def until_serving(address: str) -> None:
    """Wait until the process is healthy. Raises TimeoutError."""
    async with asyncio.timeout(20):
        while not await asyncio.to_thread(probes.is_serving, address):  # noqa: ASYNC110  # polled over gRPC
            await asyncio.sleep(0.01)


async def test_a_product_encoder_of_another_text_encoder_is_refused_at_startup(artifacts: Path, tmp_path: Path) -> None:
    train_text.train(["other words", "of another shop"], tmp_path / "text", dim=16)
    settings = TextEncoderSettings(artifact=tmp_path / "text", product_artifact=artifacts / "product")
    server_task, _ = await start_server(settings)
    with pytest.raises(BadArtifact, match=r"trained on vectors of hybrid-.*, but the text encoder is hybrid-"):
        await server_task


async def test_a_missing_product_artifact_is_refused_at_startup(artifacts: Path, tmp_path: Path) -> None:
    settings = TextEncoderSettings(artifact=artifacts / "text", product_artifact=tmp_path / "absent")
    server_task, _ = await start_server(settings)
    with pytest.raises(BadArtifact, match="absent"):
        await server_task


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"artifact": Path("text"), "location": "index"}, "--artifact text --location index: set one of them"),
        ({"product_artifact": Path("product")}, "--product-artifact product: --artifact is missing"),
    ],
)
def test_artifacts_are_given_in_place_of_an_index(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(BadSettings, match=message):
        TextEncoderSettings(**settings)


async def test_without_artifacts_and_without_an_index_there_is_nothing_to_serve() -> None:
    with pytest.raises(BadSettings, match="--location is missing"):
        await text_server.serve(TextEncoderSettings())


async def test_products_and_texts_in_flight_share_one_bound(artifacts: Path, model: ProductModel) -> None:
    served, released = serving_one(load_artifacts(artifacts / "text", artifacts / "product")), threading.Event()
    async with run_text_encoder(served, max_waiting=4) as server, aio_channel(server.address) as channel:
        blocking = asyncio.ensure_future(server.thread.run(released.wait))
        stub = product_encoder_pb2_grpc.ProductEncoderStub(channel)
        request = pb.EncodeProductsRequest(inputs=[pb.ProductInput(image=photo())] * 3)
        calls = [asyncio.ensure_future(stub.Encode(request)) for _ in range(2)]
        (refused,), _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        message = "3 products and KiB of texts are in flight, at most 4 are allowed"
        with pytest.raises(grpc.aio.AioRpcError, match=message) as raised:
            await refused
        assert raised.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        released.set()
        (admitted,) = [call for call in calls if call is not refused]
        assert (await admitted).dim == model.dim
        await blocking
