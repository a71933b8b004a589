"""The product encoder service over real gRPC, in the text encoder's process."""

from __future__ import annotations

import asyncio
import dataclasses
import shutil
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import grpc.aio
import numpy as np
import pytest

from encoders.product import model as product
from encoders.product import server as product_server
from encoders.product import train as train_product
from encoders.product.model import ProductModel
from encoders.product.server import MAX_INPUTS
from encoders.text import model as text
from encoders.text import server as text_server
from encoders.text import train as train_text
from encoders.text.model import TextModel
from encoders.text.server import TextEncoderSettings
from lookalike.channels import aio_channel
from lookalike.errors import BadArtifact
from lookalike.local import probes
from lookalike.runtime import edge
from lookalike.v1 import product_encoder_pb2 as pb
from lookalike.v1 import product_encoder_pb2_grpc
from lookalike.vectors import pack, unpack
from tests.rpc.gateways import serving
from tests.unit.encoders.synthetic_products import make_products

TITLES = ["red dress", "blue dress", "white mug", "black mug", "wooden table", "赤い靴"]


@pytest.fixture(scope="module")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """text/, and product/ trained on its vectors of titles."""
    folder = tmp_path_factory.mktemp("encoders")
    train_text.train(TITLES, folder / "text", dim=16)
    products, model = make_products(), text.load(folder / "text")
    word = [int(category[-1]) for category in products.categories]
    vectors = model.encode([TITLES[2 * w] for w in word])
    trained_on = dataclasses.replace(products, texts=vectors, text_encoder=model.fingerprint)
    train_product.train(trained_on, folder / "product")
    return folder


@pytest.fixture(scope="module")
def words(artifacts: Path) -> TextModel:
    return text.load(artifacts / "text")


@pytest.fixture(scope="module")
def model(artifacts: Path) -> ProductModel:
    return product.load(artifacts / "product")


@pytest.fixture
async def stub(artifacts: Path, model: ProductModel) -> AsyncIterator[product_encoder_pb2_grpc.ProductEncoderAsyncStub]:
    encoder = text_server.TextEncoderService(TextEncoderSettings())
    await encoder.load(artifacts / "text")
    service = product_server.ProductEncoderService(encoder.run_admitted)
    service.set_model(model)
    async with (
        serving(edge.handler(product_server.SERVICE, service.methods())) as address,
        aio_channel(address) as channel,
    ):
        yield product_encoder_pb2_grpc.ProductEncoderStub(channel)
    encoder.close()


def photo(row: int = 0) -> bytes:
    return pack(make_products().images[row])


async def test_encode_returns_the_models_vectors_and_its_fingerprints(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel, words: TextModel
) -> None:
    title = words.encode(["red dress"])
    inputs = [
        pb.ProductInput(image=photo(), text=pack(title)),
        pb.ProductInput(image=photo()),
        pb.ProductInput(text=pack(title)),
    ]
    reply = await stub.Encode(pb.EncodeProductsRequest(inputs=inputs))
    image = unpack(photo(), model.image_dim)
    expected = [
        model.encode(image, title),
        model.encode(image, title * 0),
        model.encode(image * 0, title),
    ]
    np.testing.assert_allclose(unpack(reply.vectors, reply.dim), np.concatenate(expected), atol=1e-5)
    assert (reply.fingerprint, reply.dim) == (model.fingerprint, model.dim)
    assert (reply.image_encoder, reply.text_encoder) == (model.image_encoder, words.fingerprint)
    state = await stub.Describe(pb.DescribeProductEncoderRequest())
    assert (state.fingerprint, state.dim, state.categories) == (model.fingerprint, model.dim, 9)


async def test_categories_come_with_probabilities_and_the_threshold_of_their_modality(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel, words: TextModel
) -> None:
    inputs = [pb.ProductInput(image=photo(), text=pack(words.encode(["red dress"]))), pb.ProductInput(image=photo())]
    reply = await stub.Classify(pb.ClassifyProductsRequest(inputs=inputs, limit=2, precision=0.8))
    both, image = reply.results
    assert len(both.categories) == 2
    assert set(both.categories) <= set(model.categories)
    first, second = np.frombuffer(both.probabilities, "<f4")
    assert 1 >= first >= second >= 0
    assert image.threshold > both.threshold
    assert reply.fingerprint == model.fingerprint


@pytest.mark.parametrize(
    ("inputs", "complaint"),
    [
        ([], f"0 products, expected 1..{MAX_INPUTS}"),
        ([pb.ProductInput(text=b"1234")] * (MAX_INPUTS + 1), f"{MAX_INPUTS + 1} products"),
        ([pb.ProductInput()], "inputs[0]: has neither image nor text"),
        ([pb.ProductInput(text=b"1234")], "inputs[0].text: 4 bytes, expected 24 for a vector of"),
        ([pb.ProductInput(image=photo()), pb.ProductInput(image=b"1234")], "inputs[1].image: 4 bytes"),
        ([pb.ProductInput(image=bytes(96))], "inputs[0].image: is not of unit norm"),
        ([pb.ProductInput(image=np.full(24, np.nan, "<f4").tobytes())], "inputs[0].image: is not of unit norm"),
    ],
)
async def test_an_invalid_input_is_refused_and_named(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, inputs: list[pb.ProductInput], complaint: str
) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Encode(pb.EncodeProductsRequest(inputs=inputs))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert complaint in str(caught.value.details())


@pytest.mark.parametrize(("limit", "precision"), [(0, 0.9), (1, 0.4), (1, 1.0), (1, float("nan"))])
async def test_an_invalid_precision_or_limit_is_refused(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, limit: int, precision: float
) -> None:
    request = pb.ClassifyProductsRequest(inputs=[pb.ProductInput(image=photo())], limit=limit, precision=precision)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.Classify(request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_concurrent_callers_each_get_their_own_vectors(
    stub: product_encoder_pb2_grpc.ProductEncoderAsyncStub, model: ProductModel
) -> None:
    async def alone(row: int) -> bytes:
        return (await stub.Encode(pb.EncodeProductsRequest(inputs=[pb.ProductInput(image=photo(row))]))).vectors

    replies = await asyncio.gather(*(alone(row) for row in range(24)))
    images = make_products().images[:24]
    expected = model.encode(images, np.zeros((24, model.text_dim), np.float32))
    np.testing.assert_allclose(np.concatenate([unpack(each, model.dim) for each in replies]), expected, atol=1e-5)


async def started(tmp_path: Path, settings: TextEncoderSettings) -> tuple[asyncio.Task[None], str]:
    assert settings.artifact is not None
    (port,) = probes.free_ports(1)
    chosen = dataclasses.replace(settings, host="127.0.0.1", port=port)
    return asyncio.create_task(text_server.serve(chosen, settings.artifact)), f"127.0.0.1:{port}"


async def test_a_process_without_a_product_encoder_says_so_and_serves_texts(artifacts: Path, tmp_path: Path) -> None:
    for product_artifact in (None, tmp_path):  # An empty folder stands for none.
        settings = TextEncoderSettings(artifact=artifacts / "text", product_artifact=product_artifact)
        serving_it, address = await started(tmp_path, settings)
        try:
            async with aio_channel(address) as channel:
                stub = product_encoder_pb2_grpc.ProductEncoderStub(channel)
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await stub.Describe(pb.DescribeProductEncoderRequest(), wait_for_ready=True, timeout=20)
                assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        finally:
            serving_it.cancel()
            await asyncio.wait([serving_it])


async def test_a_product_encoder_of_another_text_encoder_is_refused_at_startup(artifacts: Path, tmp_path: Path) -> None:
    train_text.train(["other words", "of another shop"], tmp_path / "text", dim=16)
    settings = TextEncoderSettings(artifact=tmp_path / "text", product_artifact=artifacts / "product")
    serving_it, _ = await started(tmp_path, settings)
    with pytest.raises(BadArtifact, match=r"trained on vectors of scdv-.*, but the text encoder is scdv-"):
        await serving_it


async def test_a_missing_folder_is_refused_at_startup(artifacts: Path, tmp_path: Path) -> None:
    shutil.copytree(artifacts / "text", tmp_path / "text")
    settings = TextEncoderSettings(artifact=tmp_path / "text", product_artifact=tmp_path / "absent")
    serving_it, _ = await started(tmp_path, settings)
    with pytest.raises(BadArtifact, match="absent"):
        await serving_it


async def test_products_and_texts_in_flight_share_one_bound(artifacts: Path, model: ProductModel) -> None:
    encoder = text_server.TextEncoderService(TextEncoderSettings(max_waiting=4))
    await encoder.load(artifacts / "text")
    released, service = threading.Event(), product_server.ProductEncoderService(encoder.run_admitted)
    service.set_model(model)
    blocking = asyncio.ensure_future(encoder.run(released.wait))
    async with (
        serving(edge.handler(product_server.SERVICE, service.methods())) as address,
        aio_channel(address) as channel,
    ):
        stub = product_encoder_pb2_grpc.ProductEncoderStub(channel)
        request = pb.EncodeProductsRequest(inputs=[pb.ProductInput(image=photo())] * 3)
        calls = [asyncio.ensure_future(stub.Encode(request)) for _ in range(2)]
        (refused,), _ = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        complaint = "3 products and KiB of texts are in flight, at most 4 are allowed"
        with pytest.raises(grpc.aio.AioRpcError, match=complaint) as caught:
            await refused
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        released.set()
        (answered,) = [call for call in calls if call is not refused]
        assert (await answered).dim == model.dim
    await blocking
    encoder.close()
