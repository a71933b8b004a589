"""A real gateway over real gRPC in this process, before shards and encoders that do as the test says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
import numpy as np

from lookalike import rpc
from lookalike.deadline import Deadline
from lookalike.errors import LookalikeError, WrongState
from lookalike.partition import shard_of
from lookalike.vectors import F32, normalised, pack, unpack
from protos.lookalike.v1 import catalog_pb2_grpc, index_pb2, search_pb2_grpc, text_encoder_pb2
from protos.lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Product
from server.app import gateway
from server.settings import GatewaySettings

DIM = 8
SHARDS = 2
SHARD = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
TEXT = text_encoder_pb2.DESCRIPTOR.services_by_name["TextEncoder"]


def product_vector(number: int, space: int) -> F32:
    vector: F32 = normalised(np.random.default_rng((number, space)).standard_normal((1, DIM)).astype(np.float32))[0]
    return vector


PRODUCTS = [
    Product(
        id=f"p{i:02}",
        title=f"product {i}",
        category="fashion/shoes" if i % 2 else "food/sweets",
        shop=f"shop{i % 4}",
        price=100 * i,
        in_stock=i % 5 != 0,
    )
    for i in range(20)
]
# p19 has no photo.
VECTORS = {
    (product.id, space): product_vector(i, space)
    for i, product in enumerate(PRODUCTS)
    for space in (SPACE_IMAGE, SPACE_TEXT)
    if (i, space) != (19, SPACE_IMAGE)
}


@dataclass
class ScriptedShard:
    """The twenty products, by brute force; the script makes it late, broken, or of another version."""

    ordinal: int
    version: str = "v1"
    error: LookalikeError | None = None
    hang: bool = False
    batches: list[int] = field(default_factory=list)

    @property
    def products(self) -> list[Product]:
        return [product for product in PRODUCTS if shard_of(product.id, SHARDS) == self.ordinal]

    async def describe(self, _: index_pb2.DescribeRequest, deadline: Deadline) -> index_pb2.ShardState:
        await self._script("")
        spaces = [
            index_pb2.SpaceState(
                space=space,
                dim=DIM,
                encoder=f"encoder-{space}",
                documents=[
                    sum(s == space and shard_of(product_id, SHARDS) == shard for product_id, s in VECTORS)
                    for shard in range(SHARDS)
                ],
            )
            for space in (SPACE_IMAGE, SPACE_TEXT)
        ]
        return index_pb2.ShardState(version=self.version, shard=self.ordinal, shards=SHARDS, spaces=spaces)

    async def search(self, request: index_pb2.ShardSearchRequest, _: Deadline) -> index_pb2.ShardSearchResponse:
        await self._script(request.version)
        self.batches.append(len(request.queries))
        return index_pb2.ShardSearchResponse(results=[self._hits(query) for query in request.queries])

    def _hits(self, query: index_pb2.ShardQuery) -> index_pb2.ShardHits:
        """By the weighted sum of the cosines: 0 where a product has no vector, no hit where it has none at all."""
        found = []
        for product in self.products:
            cosines = [
                float(VECTORS[product.id, each.space] @ unpack(each.vector, DIM)[0])
                if (product.id, each.space) in VECTORS
                else None
                for each in query.vectors
            ]
            if product.shop in query.filter.shop_not_in or not any(cosine is not None for cosine in cosines):
                continue
            told = [cosine or 0.0 for cosine in cosines]
            weights = [each.weight for each in query.vectors] if len(told) > 1 else [1.0]
            score = sum(weight * cosine for weight, cosine in zip(weights, told, strict=True))
            found.append((-score, product.id, product, told))
        found = sorted(found)[: query.k]
        return index_pb2.ShardHits(
            ids=[product_id for _, product_id, *_ in found],
            scores=pack(np.array([-score for score, *_ in found], dtype=np.float32)),
            products=[product.SerializeToString() for _, _, product, _ in found],
            explained=pack(np.array([told for *_, told in found], dtype=np.float32)) if query.explain else b"",
        )

    async def fetch(self, request: index_pb2.FetchRequest, _: Deadline) -> index_pb2.FetchResponse:
        await self._script(request.version)
        known = {product.id: product for product in self.products}
        return index_pb2.FetchResponse(
            products=[
                index_pb2.Fetched(
                    product=known.get(product_id),
                    vectors=[
                        index_pb2.SpaceVector(space=space, vector=pack(VECTORS[product_id, space]))
                        for space in request.vectors
                        if product_id in known and (product_id, space) in VECTORS
                    ],
                )
                for product_id in request.ids
            ]
        )

    async def count(self, request: index_pb2.ShardCountRequest, _: Deadline) -> index_pb2.ShardCountResponse:
        await self._script(request.version)
        return index_pb2.ShardCountResponse(count=len(self.products))

    async def list(self, request: index_pb2.ShardListRequest, _: Deadline) -> AsyncIterator[index_pb2.ShardListPage]:
        await self._script(request.version)
        for product in self.products:
            if product.id > request.after:
                yield index_pb2.ShardListPage(ids=[product.id], products=[product.SerializeToString()])

    async def _script(self, version: str) -> None:
        if self.hang:
            await asyncio.sleep(3600)
        if self.error is not None:
            raise self.error
        if version not in ("", self.version):
            raise WrongState(f"serves {self.version}, not {version}")

    def handler(self) -> grpc.GenericRpcHandler:
        methods: rpc.Methods = {
            "Describe": self.describe,
            "Search": self.search,
            "Fetch": self.fetch,
            "Count": self.count,
            "List": self.list,
        }
        return rpc.handler(SHARD, methods)


@dataclass
class ScriptedTextEncoder:
    """ "p07" is encoded as the text vector of p07; anything else as zeros."""

    fingerprint: str = f"encoder-{SPACE_TEXT}"
    error: LookalikeError | None = None

    async def describe(self, _: text_encoder_pb2.DescribeEncoderRequest, __: Deadline) -> text_encoder_pb2.EncoderState:
        return text_encoder_pb2.EncoderState(fingerprint=self.fingerprint, dim=DIM)

    async def encode(
        self, request: text_encoder_pb2.EncodeTextRequest, _: Deadline
    ) -> text_encoder_pb2.EncodeTextResponse:
        if self.error is not None:
            raise self.error
        zeros = np.zeros(DIM, dtype=np.float32)
        vectors = np.stack([VECTORS.get((text, SPACE_TEXT), zeros) for text in request.texts])
        return text_encoder_pb2.EncodeTextResponse(vectors=pack(vectors), dim=DIM, fingerprint=self.fingerprint)

    def handler(self) -> grpc.GenericRpcHandler:
        return rpc.handler(TEXT, {"Describe": self.describe, "Encode": self.encode})


@dataclass
class Scene:
    shards: list[ScriptedShard]
    encoder: ScriptedTextEncoder
    search: search_pb2_grpc.SimilarProductsAsyncStub
    catalog: catalog_pb2_grpc.CatalogAsyncStub


@asynccontextmanager
async def serving(*handlers: grpc.GenericRpcHandler) -> AsyncIterator[str]:
    """The address of a real server."""
    server = rpc.server(handlers)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def a_scene(**settings: object) -> AsyncIterator[Scene]:
    """The gateway, once it knows its shards."""
    shards, encoder = [ScriptedShard(i) for i in range(SHARDS)], ScriptedTextEncoder()
    async with (
        serving(shards[0].handler()) as first,
        serving(shards[1].handler()) as second,
        serving(encoder.handler()) as text,
        running({"shards": (first, second), "text_encoder": text, "refresh_s": 0.05, **settings}) as address,
        rpc.channel(address) as channel,
    ):
        yield Scene(
            shards, encoder, search_pb2_grpc.SimilarProductsStub(channel), catalog_pb2_grpc.CatalogStub(channel)
        )


@asynccontextmanager
async def running(settings: Mapping[str, Any]) -> AsyncIterator[str]:
    """The address of a gateway that knows its shards."""
    made = gateway(GatewaySettings(**settings))
    refreshing = asyncio.create_task(made.fleet.keep_fresh())
    try:
        async with serving(*made.handlers) as address:
            await made.fleet.until_whole()
            yield address
    finally:
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing
        await made.close()
