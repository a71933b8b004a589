"""The catalogue of an update from what a gateway serves."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import SpaceVectors, build
from lookalike.errors import BadSettings, NotFound, Unavailable
from lookalike.releases.location import Directory
from lookalike.v1.catalog_pb2 import GetResponse
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product, SpaceVector
from lookalike.vectors import pack
from pipeline import catalogue
from pipeline.catalogue import CatalogueRow, open_products
from pipeline.gateway import Gateway
from pipeline.served_catalogue import check_version, image_vectors, save_products
from pipeline.tables.reader import TableOptions

FULL = Product(
    id="a",
    title="red shoe",
    description="of leather",
    category="fashion/shoes",
    shop="s",
    price=0.0,
    currency="JPY",
    in_stock=False,
    image="https://shop/a.jpg",
    url="https://shop/a",
    tags=["colour:red", "women"],
    created_at=1_700_000_000,
    expires_at=4_000_000_000,
    revision=1 << 63,
)


class Served:
    """A gateway."""

    address = "gateway:50051"

    def __init__(self, *products: Product, version: str = "", breaks: bool = False) -> None:
        self._products, self._version, self._breaks = products, version, breaks

    async def version(self) -> str:
        return self._version

    async def products(self) -> AsyncIterator[Product]:
        for product in self._products:
            yield product
        if self._breaks:
            raise Unavailable("gateway: shard 1 does not answer")

    async def get(self, product_id: str, vectors: Any = ()) -> GetResponse:
        if product_id == "gone":
            raise NotFound("no product")
        encoder = "other" if product_id == "other" else "m"
        vector = SpaceVector(space=SPACE_IMAGE, vector=pack(np.array([0.6, 0.8], np.float32)), encoder=encoder)
        return GetResponse(product=Product(id=product_id), vectors=[] if product_id == "none" else [vector])


def gateway(*products: Product, version: str = "", breaks: bool = False) -> Gateway:
    return cast(Gateway, Served(*products, version=version, breaks=breaks))


async def test_every_field_of_a_served_product_is_read_as_it_is(tmp_path: Path) -> None:
    assert await save_products(gateway(FULL, Product(id="b", category="c", in_stock=True)), tmp_path) == 2
    table = open_products(tmp_path, TableOptions(revision_unit="none"))
    full, bare = catalogue.read_table(None, table)
    assert isinstance(full, CatalogueRow)
    assert isinstance(bare, CatalogueRow)
    for field in ("title", "description", "category", "price", "in_stock", "image", "url", "expires_at", "revision"):
        assert getattr(full.product, field) == getattr(FULL, field), field
    assert full.product.tags == ("colour:red", "women")
    assert (bare.product.price, bare.product.image, bare.unused_photo) == (None, "", None)


async def test_a_list_that_breaks_off_is_an_error_and_no_shorter_catalogue(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        await save_products(gateway(FULL, breaks=True), tmp_path)


async def test_vectors_of_another_encoder_are_none() -> None:
    vectors = await image_vectors(gateway(), ["a", "other", "none", "gone", "b"], encoder="m", dim=2)
    assert vectors.keys() == {"a", "b"}
    assert np.allclose(vectors["b"], [0.6, 0.8])


async def test_a_gateway_of_another_index_is_refused(tmp_path: Path) -> None:
    vectors = SpaceVectors(encoder="t", vectors=np.eye(3, dtype=np.float32), rows=np.arange(3))
    name = build(tmp_path, pa.table({"id": ["a", "b", "c"]}), {int(SPACE_TEXT): vectors}, shards=1)
    await check_version(gateway(version=name), Directory(tmp_path))
    with pytest.raises(BadSettings, match="gateway:50051 serves version other, which is not in"):
        await check_version(gateway(version="other"), Directory(tmp_path))
