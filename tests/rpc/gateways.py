"""A real gateway over real gRPC in this process, with scripted shards and encoders behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import grpc
import grpc.aio
import numpy as np
import pytest
from google.protobuf.message import Message
from PIL import Image
from prometheus_client import REGISTRY

from encoders.image import signature
from encoders.image.prediction_service import to_array, to_string_tensor, to_tensor
from encoders.tfserving.v1 import prediction_pb2
from lookalike.access.followed_keys import guarding
from lookalike.channels import aio_channel, process_tls
from lookalike.errors import FailedPrecondition, InvalidRequest, LookalikeError
from lookalike.releases.location import open_location
from lookalike.runtime import edge, security
from lookalike.runtime.call import Guard
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.grouping import limit_per_shop
from lookalike.runtime.partition import shard_of
from lookalike.v1 import catalog_pb2_grpc, index_pb2, product_encoder_pb2, search_pb2_grpc, text_encoder_pb2
from lookalike.v1.search_pb2 import SearchRequest
from lookalike.v1.types_pb2 import (
    SPACE_IMAGE,
    SPACE_PRODUCT,
    SPACE_TEXT,
    DuplicatesThreshold,
    Product,
    SearchPlan,
    Space,
    SpaceVector,
    SpaceWeight,
)
from lookalike.vectors import F32, normalised, pack, unpack
from server import query_parser
from server.app import build_gateway, build_shards
from server.query import SearchQuery, parse_query
from server.settings import GatewaySettings
from server.shard_transport import ShardTransport
from tests.rpc.model_servers import metadata_response, prediction_service

DIM = 8
DIMS = {SPACE_IMAGE: 16, SPACE_TEXT: DIM, SPACE_PRODUCT: DIM}
SHARDS = 2
SHARD = index_pb2.DESCRIPTOR.services_by_name["IndexShard"]
TEXT = text_encoder_pb2.DESCRIPTOR.services_by_name["TextEncoder"]
PRODUCT = product_encoder_pb2.DESCRIPTOR.services_by_name["ProductEncoder"]
CATEGORIES = ("fashion/shoes", "food/sweets", "home")


def random_unit(*seed: int, dim: int) -> F32:
    vector: F32 = normalised(np.random.default_rng(seed).standard_normal((1, dim)).astype(np.float32))[0]
    return vector


def fuse(image: F32 | None, text: F32 | None) -> F32:
    """The product vector of the scripted product encoder: the photo's vector in one half, the text's in the other."""
    halves = np.zeros((1, DIM), dtype=np.float32)
    if image is not None:
        halves[0, : DIM // 2] = image[: DIM // 2] * 16
    if text is not None:
        halves[0, DIM // 2 :] = text[: DIM // 2]
    vector: F32 = normalised(halves)[0]
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
# p19 has no photo, and p17 is not in the product space.
VECTORS = {
    (product.id, space): random_unit(i, space, dim=DIMS[space])
    for i, product in enumerate(PRODUCTS)
    for space in (SPACE_IMAGE, SPACE_TEXT)
    if (i, space) != (19, SPACE_IMAGE)
}
VECTORS |= {
    (product.id, SPACE_PRODUCT): fuse(VECTORS.get((product.id, SPACE_IMAGE)), VECTORS.get((product.id, SPACE_TEXT)))
    for product in PRODUCTS
    if product.id != "p17"
}


def a_photo(number: int) -> bytes:
    """A photo of product `number`: the scripted model server reads the number from the red channel."""
    buffer = BytesIO()
    Image.new("RGB", (64, 64), (10 * number, 30, 30)).save(buffer, "PNG")
    return buffer.getvalue()


@dataclass
class ScriptedShard:
    """A shard that searches its part of the twenty products by brute force; a test can make it hang or fail."""

    ordinal: int
    version: str = "v1"
    spaces: Sequence[Space.ValueType] = (SPACE_IMAGE, SPACE_TEXT)
    encoders: Mapping[Space.ValueType, str] = field(default_factory=dict)  # By space; default: "encoder-1" and so on.
    text_shares: Mapping[Space.ValueType, float] = field(default_factory=dict)
    duplicates: Mapping[Space.ValueType, DuplicatesThreshold] = field(default_factory=dict)
    error: LookalikeError | None = None
    fetch_error: LookalikeError | None = None
    hang: bool = False
    batches: list[int] = field(default_factory=list)
    fetches: list[index_pb2.FetchRequest] = field(default_factory=list)
    updates: list[index_pb2.Update] = field(default_factory=list)
    outcome: index_pb2.UpdateResult.Outcome.ValueType = index_pb2.UpdateResult.APPLIED
    refusal: str = ""

    @property
    def products(self) -> list[Product]:
        return [product for product in PRODUCTS if shard_of(product.id, SHARDS) == self.ordinal]

    async def describe(self, request: index_pb2.DescribeRequest, deadline: Deadline) -> index_pb2.DescribeResponse:
        await self._hang_or_fail("")
        spaces = [
            index_pb2.SpaceState(
                space=space,
                dim=DIMS[space],
                encoder=self.encoders.get(space, f"encoder-{space}"),
                documents=[
                    sum(s == space and shard_of(product_id, SHARDS) == shard for product_id, s in VECTORS)
                    for shard in range(SHARDS)
                ],
                duplicates=self.duplicates.get(space),
            )
            for space in self.spaces
        ]
        state = index_pb2.ShardState(
            version=self.version,
            shard=self.ordinal,
            shards=SHARDS,
            spaces=spaces,
            text_weights=[SpaceWeight(space=space, weight=share) for space, share in self.text_shares.items()],
        )
        return index_pb2.DescribeResponse(versions=[state])

    async def search(self, request: index_pb2.ShardSearchRequest, _: Deadline) -> index_pb2.ShardSearchResponse:
        await self._hang_or_fail(request.version)
        self.batches.append(len(request.queries))
        return index_pb2.ShardSearchResponse(results=[self._hits(query) for query in request.queries])

    def _hits(self, query: index_pb2.ShardQuery) -> index_pb2.ShardHits:
        """Score by the weighted sum of cosines, 0 for a missing vector; a product without any vector is no hit."""
        hits = []
        for product in self.products:
            cosines = [
                float(VECTORS[product.id, each.space] @ unpack(each.vector, DIMS[each.space])[0])
                if (product.id, each.space) in VECTORS
                else None
                for each in query.vectors
            ]
            if product.shop in query.filter.shop_not_in or not any(cosine is not None for cosine in cosines):
                continue
            if product.id in query.exclude_ids:
                continue
            terms = [cosine or 0.0 for cosine in cosines]
            weights = [each.weight for each in query.vectors] if len(terms) > 1 else [1.0]
            score = sum(weight * cosine for weight, cosine in zip(weights, terms, strict=True))
            hits.append((-score, product.id, product, terms))
        hits = sorted(hit for hit in hits if not query.HasField("min_score") or -hit[0] >= query.min_score)
        shops = [product.shop for _, _, product, _ in hits]
        hits = [hits[i] for i in limit_per_shop(shops, query.max_per_shop or len(hits), query.k)]
        return index_pb2.ShardHits(
            ids=[product_id for _, product_id, *_ in hits],
            scores=pack(np.array([-score for score, *_ in hits], dtype=np.float32)),
            products=[product.SerializeToString() for _, _, product, _ in hits],
            cosines=pack(np.array([terms for *_, terms in hits], dtype=np.float32)) if query.explain else b"",
            plans=[self._plan(query, space) for space in sorted(each.space for each in query.vectors)]
            if query.explain
            else [],
            shops=[product.shop for _, _, product, _ in hits] if query.max_per_shop else [],
        )

    def _plan(self, query: index_pb2.ShardQuery, space: Space.ValueType) -> SearchPlan:
        documents = [product for product in self.products if (product.id, space) in VECTORS]
        matching = [product for product in documents if product.shop not in query.filter.shop_not_in]
        return SearchPlan(space=space, documents=len(documents), matching=len(matching))

    async def fetch(self, request: index_pb2.FetchRequest, _: Deadline) -> index_pb2.FetchResponse:
        await self._hang_or_fail(request.version)
        self.fetches.append(request)
        if self.fetch_error is not None:
            raise self.fetch_error
        by_id = {product.id: product for product in self.products}
        return index_pb2.FetchResponse(
            products=[
                index_pb2.FetchedProduct(
                    product=by_id[product_id].SerializeToString() if product_id in by_id else None,
                    vectors=[
                        SpaceVector(space=space, vector=pack(VECTORS[product_id, space]))
                        for space in request.vectors
                        if product_id in by_id and (product_id, space) in VECTORS
                    ],
                )
                for product_id in request.ids
            ]
        )

    async def count(self, request: index_pb2.ShardCountRequest, _: Deadline) -> index_pb2.ShardCountResponse:
        await self._hang_or_fail(request.version)
        return index_pb2.ShardCountResponse(count=len(self.products))

    async def list(self, request: index_pb2.ShardListRequest, _: Deadline) -> AsyncIterator[index_pb2.ShardListPage]:
        await self._hang_or_fail(request.version)
        for product in self.products:
            if product.id > request.after:
                yield index_pb2.ShardListPage(ids=[product.id], products=[product.SerializeToString()])

    async def apply(self, request: index_pb2.ApplyRequest, _: Deadline) -> index_pb2.ApplyResponse:
        await self._hang_or_fail(request.version)
        self.updates += request.updates
        return index_pb2.ApplyResponse(
            results=[
                index_pb2.UpdateResult(
                    outcome=self.outcome,
                    error=self.refusal,
                    revision=update.revision,
                    spaces=[each.space for each in update.upsert.vectors],
                )
                for update in request.updates
            ],
            sequence=len(self.updates),
        )

    async def list_changes(
        self, request: index_pb2.ListChangesRequest, _: Deadline
    ) -> AsyncIterator[index_pb2.ListChangesPage]:
        """It has changed nothing."""
        yield index_pb2.ListChangesPage()

    async def list_recent_revisions(
        self, request: index_pb2.ListRecentRevisionsRequest, _: Deadline
    ) -> index_pb2.RevisionList:
        return index_pb2.RevisionList()

    async def list_revisions(
        self, request: index_pb2.ListRevisionsRequest, _: Deadline
    ) -> AsyncIterator[index_pb2.RevisionList]:
        yield index_pb2.RevisionList()

    async def seal(self, request: index_pb2.SealRequest, _: Deadline) -> index_pb2.SealResponse:
        return index_pb2.SealResponse()

    async def finish_handover(
        self, request: index_pb2.FinishHandoverRequest, _: Deadline
    ) -> index_pb2.FinishHandoverResponse:
        return index_pb2.FinishHandoverResponse()

    async def _hang_or_fail(self, version: str) -> None:
        """Hang or fail if the test wants it, or if the shard does not serve the version."""
        if self.hang:
            await asyncio.sleep(3600)
        if self.error is not None:
            raise self.error
        if version not in ("", self.version):
            raise FailedPrecondition(f"serves {self.version}, not {version}")

    def handler(self) -> grpc.GenericRpcHandler:
        methods: edge.Methods = {
            "Describe": self.describe,
            "Search": self.search,
            "Fetch": self.fetch,
            "Count": self.count,
            "List": self.list,
            "Apply": self.apply,
            "ListChanges": self.list_changes,
            "Seal": self.seal,
            "FinishHandover": self.finish_handover,
            "ListRecentRevisions": self.list_recent_revisions,
            "ListRevisions": self.list_revisions,
        }
        return edge.handler(SHARD, methods)


def encode_words(words: Sequence[str]) -> F32:
    """The text vector of the scripted text encoder."""
    known = [VECTORS[word, SPACE_TEXT] for word in words if (word, SPACE_TEXT) in VECTORS]
    if len(known) == 1:
        return known[0]
    vector: F32 = normalised(np.sum(known, axis=0, keepdims=True) if known else np.zeros((1, DIM), np.float32))[0]
    return vector


@dataclass
class ScriptedTextEncoder:
    """Encodes the text "p07" as the text vector of p07, and so on; several as their mean, other words as nothing."""

    fingerprint: str = f"encoder-{SPACE_TEXT}"
    error: LookalikeError | None = None
    leave_out_error: LookalikeError | None = None
    leave_out_hangs: bool = False
    response: text_encoder_pb2.EncodeTextResponse | None = None  # If set, the response to every request.
    texts: list[str] = field(default_factory=list)
    received: asyncio.Event = field(default_factory=asyncio.Event)

    async def describe(
        self, _: text_encoder_pb2.DescribeEncodersRequest, __: Deadline
    ) -> text_encoder_pb2.DescribeEncodersResponse:
        text = text_encoder_pb2.EncoderState(fingerprint=self.fingerprint, dim=DIM)
        return text_encoder_pb2.DescribeEncodersResponse(versions=[text_encoder_pb2.EncodersOfVersion(text=text)])

    async def encode(
        self, request: text_encoder_pb2.EncodeTextRequest, _: Deadline
    ) -> text_encoder_pb2.EncodeTextResponse:
        if self.error is not None:
            raise self.error
        self.texts += request.texts
        self.received.set()
        if self.response is not None:
            return self.response
        vectors = np.stack([encode_words(text.split()) for text in request.texts])
        return text_encoder_pb2.EncodeTextResponse(vectors=pack(vectors), dim=DIM, fingerprint=self.fingerprint)

    async def leave_out_words(
        self, request: text_encoder_pb2.LeaveOutWordsRequest, _: Deadline
    ) -> text_encoder_pb2.LeaveOutWordsResponse:
        if self.leave_out_hangs:
            await asyncio.sleep(3600)
        if self.leave_out_error is not None:
            raise self.leave_out_error
        words = request.text.split()
        vectors = [encode_words([*words[:i], *words[i + 1 :]]) for i in range(len(words))]
        return text_encoder_pb2.LeaveOutWordsResponse(
            words=words, vectors=pack(np.stack(vectors)), dim=DIM, fingerprint=self.fingerprint
        )

    def handler(self) -> grpc.GenericRpcHandler:
        methods: edge.Methods = {
            "Describe": self.describe,
            "Encode": self.encode,
            "LeaveOutWords": self.leave_out_words,
        }
        return edge.handler(TEXT, methods)


@dataclass
class ScriptedModelServer:
    """A TF-Serving that encodes the photo of product i as the image vector of product i; it records the numbers."""

    fingerprint: str = f"encoder-{SPACE_IMAGE}"
    photos: list[int] = field(default_factory=list)
    calls: list[int] = field(default_factory=list)  # The number of photos of each.
    input_px: int = signature.DEFAULT_INPUT_PX
    waits_for: asyncio.Event | None = None  # If set, it answers only after this event.
    error: grpc.StatusCode | None = None
    details: str = ""  # Of the error.

    async def predict(
        self, request: prediction_pb2.PredictRequest, context: grpc.aio.ServicerContext[Any, Any]
    ) -> prediction_pb2.PredictResponse:
        numbers = [round(float(pixels[..., 0].mean()) / 10) for pixels in to_array(request.inputs[signature.IMAGES])]
        self.photos += numbers
        self.calls.append(len(numbers))
        if self.waits_for is not None:
            await self.waits_for.wait()
        if self.error is not None:
            await context.abort(self.error, self.details)
        features = np.stack([VECTORS[f"p{number:02}", SPACE_IMAGE] for number in numbers])
        encoders = [self.fingerprint.encode()] * len(numbers)
        outputs = {signature.FEATURES: to_tensor(features), signature.ENCODER: to_string_tensor(encoders)}
        return prediction_pb2.PredictResponse(outputs=outputs)

    def handler(self) -> grpc.GenericRpcHandler:
        return prediction_service(self.predict, lambda: metadata_response(self.input_px, DIMS[SPACE_IMAGE]))


@dataclass
class ScriptedProductEncoder:
    """Fuses as `fuse` does, and classifies every product as a shoe with probability 0.6."""

    image_encoder: str = f"encoder-{SPACE_IMAGE}"
    text_encoder: str = f"encoder-{SPACE_TEXT}"
    fingerprint: str = f"encoder-{SPACE_PRODUCT}"
    threshold: float = 0.5
    error: LookalikeError | None = None
    vectors: F32 | None = None  # If set, the response to every Encode.
    results: list[product_encoder_pb2.RankedCategories] | None = None  # If set, the response to every Classify.
    batches: list[list[product_encoder_pb2.ProductInput]] = field(default_factory=list)
    precisions: list[float] = field(default_factory=list)

    async def encode(
        self, request: product_encoder_pb2.EncodeProductsRequest, _: Deadline
    ) -> product_encoder_pb2.EncodeProductsResponse:
        self._record(request.inputs)
        vectors = np.stack([fuse(*_unpack_input(each)) for each in request.inputs])
        return product_encoder_pb2.EncodeProductsResponse(
            vectors=pack(vectors if self.vectors is None else self.vectors),
            dim=DIM,
            fingerprint=self.fingerprint,
            image_encoder=self.image_encoder,
            text_encoder=self.text_encoder,
        )

    async def classify(
        self, request: product_encoder_pb2.ClassifyProductsRequest, _: Deadline
    ) -> product_encoder_pb2.ClassifyProductsResponse:
        self._record(request.inputs)
        self.precisions.append(request.precision)
        ranked = product_encoder_pb2.RankedCategories(
            categories=CATEGORIES[: request.limit],
            probabilities=pack(np.array([0.6, 0.3, 0.1], dtype=np.float32)[: request.limit]),
            threshold=self.threshold,
        )
        return product_encoder_pb2.ClassifyProductsResponse(
            results=[ranked] * len(request.inputs) if self.results is None else self.results,
            fingerprint=self.fingerprint,
            image_encoder=self.image_encoder,
            text_encoder=self.text_encoder,
        )

    def _record(self, inputs: Sequence[product_encoder_pb2.ProductInput]) -> None:
        self.batches.append([*inputs])
        if self.error is not None:
            raise self.error
        for i, each in enumerate(inputs):
            if each.text and len(each.text) != 4 * DIM:
                raise InvalidRequest(f"inputs[{i}].text", f"{len(each.text)} bytes")

    def handler(self) -> grpc.GenericRpcHandler:
        return edge.handler(PRODUCT, {"Encode": self.encode, "Classify": self.classify})


def _unpack_input(product_input: product_encoder_pb2.ProductInput) -> tuple[F32 | None, F32 | None]:
    image = unpack(product_input.image, DIMS[SPACE_IMAGE])[0] if product_input.image else None
    text = unpack(product_input.text, DIMS[SPACE_TEXT])[0] if product_input.text else None
    return image, text


@dataclass
class ScriptedSystem:
    """The client stubs of a real gateway, and the scripted processes behind it."""

    shards: list[ScriptedShard]
    text_encoder: ScriptedTextEncoder
    model_server: ScriptedModelServer
    product_encoder: ScriptedProductEncoder
    search: search_pb2_grpc.SimilarProductsAsyncStub
    catalog: catalog_pb2_grpc.CatalogAsyncStub
    channel: grpc.aio.Channel
    address: str  # Of the gateway.
    shard_addresses: Sequence[str] = ()


def calls_in_flight() -> float:
    """As the gateway of this process counts them."""
    return REGISTRY.get_sample_value("lookalike_requests_inflight") or 0.0


def break_searches_of_limit(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    """Plant a bug in the gateway that searches of one limit meet."""

    def parse(request: SearchRequest, **options: Any) -> SearchQuery:
        if request.limit == limit:
            raise RuntimeError("a bug")
        return parse_query(request, **options)

    monkeypatch.setattr(query_parser, "parse_query", parse)


async def no_stream(requests: AsyncIterator[Any], deadline: Deadline) -> AsyncGenerator[Message | bytes, None]:
    """A SearchStream that ends at once, for servers that are asked something else."""
    nothing: tuple[Message, ...] = ()
    for reply in nothing:
        yield reply


@asynccontextmanager
async def serving(*handlers: grpc.GenericRpcHandler, guard: Guard | None = None) -> AsyncIterator[str]:
    """The address of a real gRPC server with these handlers; with TLS where this process calls others by it."""
    tls = process_tls()
    server = edge.server(handlers, guard=guard, tls_age_s=60.0 if tls else 0.0)
    if tls:
        settings = GatewaySettings(tls_cert=tls.cert, tls_key=tls.key, tls_client_ca=tls.ca)
        credentials = security.server_tls(security.server_files(settings))
        assert credentials is not None
        port = server.add_secure_port("127.0.0.1:0", credentials)
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)


@asynccontextmanager
async def scripted_system(
    *,
    spaces: Sequence[Space.ValueType] = (SPACE_IMAGE, SPACE_TEXT),
    product_encoder: bool = True,
    image_encoder: str = f"encoder-{SPACE_IMAGE}",
    product_encoder_name: str = f"encoder-{SPACE_PRODUCT}",
    text_shares: Mapping[Space.ValueType, float] | None = None,
    duplicates: Mapping[Space.ValueType, DuplicatesThreshold] | None = None,
    **settings: object,
) -> AsyncIterator[ScriptedSystem]:
    """A ready gateway, with the scripted processes behind it.

    spaces:                the vector spaces of the version.
    product_encoder:       whether the text encoder's process also serves a product encoder.
    image_encoder:         fingerprint of the image encoder, for the version, the model server and the product encoder.
    product_encoder_name:  fingerprint of the product encoder, for the version and the product encoder.
    text_shares:           spaces that words alone are best searched in, as the version states.
    duplicates:            the score from which products are near-duplicates in a space, as the version states it.
    settings:              settings of the gateway.
    """
    encoders = {SPACE_IMAGE: image_encoder, SPACE_PRODUCT: product_encoder_name}
    shards = [
        ScriptedShard(i, spaces=spaces, encoders=encoders, text_shares=text_shares or {}, duplicates=duplicates or {})
        for i in range(SHARDS)
    ]
    text_encoder, model_server = ScriptedTextEncoder(), ScriptedModelServer(image_encoder)
    scripted_product_encoder = ScriptedProductEncoder(image_encoder, fingerprint=product_encoder_name)
    text_handlers = [text_encoder.handler(), *([scripted_product_encoder.handler()] if product_encoder else [])]
    async with (
        serving(shards[0].handler()) as first,
        serving(shards[1].handler()) as second,
        serving(*text_handlers) as text_address,
        serving(model_server.handler()) as model_address,
        running_gateway(
            {
                "shards": (first, second),
                "text_encoder": (text_address,),
                "model_server": model_address,
                "refresh_s": 0.05,
                **settings,
            }
        ) as address,
        aio_channel(address) as channel,
    ):
        similar, catalog = search_pb2_grpc.SimilarProductsStub(channel), catalog_pb2_grpc.CatalogStub(channel)
        yield ScriptedSystem(
            shards,
            text_encoder,
            model_server,
            scripted_product_encoder,
            similar,
            catalog,
            channel,
            address,
            (first, second),
        )


@asynccontextmanager
async def running_gateway(
    settings: Mapping[str, Any],
    transports: Sequence[ShardTransport] | None = None,
    stop: Callable[[], None] = lambda: None,
) -> AsyncIterator[str]:
    """The address of a ready gateway: all its shards serve one version.

    transports: to its shards; default: over gRPC to those that the settings name.
    stop:       what Admin.Drain calls.
    """
    gateway_settings = GatewaySettings(**settings)
    remote = build_shards(gateway_settings) if transports is None else transports
    releases = open_location(gateway_settings.releases) if gateway_settings.releases else None
    gateway = build_gateway(gateway_settings, remote, releases, stop)
    refreshing = asyncio.create_task(gateway.versions.keep_fresh())
    try:
        async with (
            guarding(
                gateway_settings.keys,
                gateway_settings.keys_max_age_s,
                gateway.open_streams.renew,
                gateway.callers.check_open,
            ) as guard,
            serving(*gateway.handlers, guard=guard) as address,
        ):
            await gateway.versions.until_complete()
            yield address
    finally:
        refreshing.cancel()
        with suppress(asyncio.CancelledError):
            await refreshing
        await gateway.close()
