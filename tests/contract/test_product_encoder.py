"""The contract of the product encoder, checked against the scripted fake and the real one."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import numpy as np
import pytest

from encoders.product import model as product_model
from encoders.product.client import ProductEncoder, ProductEncoderInfo
from encoders.product.train import train
from encoders.text.replicas import text_encoder_replicas
from encoders.text_serving.encoder_set import EncoderSet
from lookalike.errors import FailedPrecondition, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.v1.product_encoder_pb2 import ProductInput
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from lookalike.vectors import pack
from tests.rpc.gateways import VECTORS, ScriptedProductEncoder, serving
from tests.rpc.text_encoders import run_text_encoder, serving_one
from tests.unit.encoders import synthetic_products

NO_DEADLINE = Deadline.after(None)


@asynccontextmanager
async def client_of(address: str) -> AsyncIterator[ProductEncoder]:
    replicas = text_encoder_replicas([address])
    try:
        yield ProductEncoder(replicas)
    finally:
        await replicas.close()


@dataclass
class EncoderUnderTest:
    client: ProductEncoder
    image: bytes
    text: bytes
    info: ProductEncoderInfo


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> product_model.ProductModel:
    folder = tmp_path_factory.mktemp("encoders") / "product"
    train(synthetic_products.make_products(), folder)
    return product_model.load(folder)


@pytest.fixture(params=["scripted", "real"])
async def encoder(request: pytest.FixtureRequest, model: product_model.ProductModel) -> AsyncIterator[EncoderUnderTest]:
    if request.param == "scripted":
        info = ProductEncoderInfo("encoder-3", "encoder-1", "encoder-2")
        image, text = pack(VECTORS["p07", SPACE_IMAGE]), pack(VECTORS["p07", SPACE_TEXT])
        server = serving(ScriptedProductEncoder().handler())
    else:
        info = ProductEncoderInfo(model.fingerprint, model.image_encoder, model.text_encoder)
        products = synthetic_products.make_products(1)
        image, text = pack(products.images[0]), pack(products.texts[0])
        server = serving_real(EncoderSet(product=model))
    async with server as address, client_of(address) as client:
        yield EncoderUnderTest(client, image, text, info)


@asynccontextmanager
async def serving_real(encoders: EncoderSet) -> AsyncIterator[str]:
    async with run_text_encoder(serving_one(encoders)) as server:
        yield server.address


async def test_an_image_a_text_and_both_give_different_unit_vectors(encoder: EncoderUnderTest) -> None:
    both, photo = ProductInput(image=encoder.image, text=encoder.text), ProductInput(image=encoder.image)
    response = await encoder.client.encode([both, photo, ProductInput(text=encoder.text), both], NO_DEADLINE)
    assert response.info == encoder.info
    np.testing.assert_allclose(np.linalg.norm(response.vectors, axis=1), 1, atol=1e-3)
    np.testing.assert_allclose(response.vectors[0], response.vectors[3], atol=1e-6)
    assert response.vectors[0] @ response.vectors[1] < 0.9999


async def test_the_requested_number_of_categories_comes_sorted_by_probability(encoder: EncoderUnderTest) -> None:
    both, photo = ProductInput(image=encoder.image, text=encoder.text), ProductInput(image=encoder.image)
    classifications, info = await encoder.client.classify([both, photo], NO_DEADLINE, limit=2, precision=0.9)
    assert info == encoder.info
    for classification in classifications:
        assert len(classification.categories) == len(classification.values) == 2
        assert 1 >= classification.values[0] >= classification.values[1] > 0
        assert 0 <= classification.threshold <= 2


async def test_vectors_of_other_dimensions_are_refused(model: product_model.ProductModel) -> None:
    async with serving_real(EncoderSet(product=model)) as address, client_of(address) as client:
        with pytest.raises(FailedPrecondition, match=r"inputs\[0\].image: 4 bytes"):
            await client.encode([ProductInput(image=bytes(4))], NO_DEADLINE)


async def test_a_process_without_a_product_encoder_says_so() -> None:
    for server, reason in (
        (serving_real(EncoderSet()), "has no product encoder"),
        (serving(), "no product encoder is deployed"),
    ):
        async with server as address, client_of(address) as client:
            with pytest.raises(FailedPrecondition, match=reason):
                await client.encode([ProductInput(image=bytes(4))], NO_DEADLINE)
            with pytest.raises(FailedPrecondition, match=reason):
                await client.classify([ProductInput(image=bytes(4))], NO_DEADLINE, limit=1, precision=0.9)


async def test_an_address_without_a_server_is_unavailable() -> None:
    async with client_of("127.0.0.1:1") as client:
        with pytest.raises(Unavailable, match="product encoder"):
            await client.encode([ProductInput(image=bytes(4))], NO_DEADLINE)
