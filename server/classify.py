"""Classify: the category of a product, a photo or a title. I/O to the owning shard and the encoders."""

from __future__ import annotations

from dataclasses import dataclass

from encoders.clients import ClassificationResult, EncodedVector, Encoders, InputVectors
from lookalike.errors import NotFound
from lookalike.runtime.concurrently import run_concurrently
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import index_pb2, search_pb2
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from server import metrics
from server.admission import Permit
from server.answer import classification_degradations, timings
from server.classify_request import ClassifyQuery, parse_classify_request
from server.key_limits import KeyLimits
from server.metrics import RequestTimer
from server.shard_group import ShardGroup
from server.stored_product import StoredProduct
from server.topology import Snapshot
from server.version_watch import VersionWatch

# The threshold, above every probability, of a precision that no probability reached: as encoders/product/classifier.py.
UNREACHABLE = 2.0
_INPUT_SPACES = (SPACE_IMAGE, SPACE_TEXT)


@dataclass(frozen=True, slots=True)
class ClassifyHandler:
    """The handler of Classify."""

    versions: VersionWatch
    shards: ShardGroup
    encoders: Encoders
    default_deadline_s: float
    callers: KeyLimits

    async def classify(
        self, request: search_pb2.ClassifyRequest, deadline: Deadline, permit: Permit
    ) -> search_pb2.ClassifyResponse:
        deadline = deadline.or_after(self.default_deadline_s)
        query, version = parse_classify_request(request), ""
        snapshot = self.versions.snapshot()
        if query.product_id is None:
            with permit.timer.stage("encode"):
                inputs = await self._encode(query, snapshot, deadline)
        else:
            version = snapshot.version
            with permit.timer.stage("lookup"):
                fetched = await self.shards.lookup(snapshot, query.product_id, _INPUT_SPACES, deadline)
            inputs = _stored_inputs(fetched, query.product_id, snapshot)
        if inputs.image is None and inputs.text is None:
            return _abstention(query, inputs, permit.timer)
        with permit.timer.stage("encode"):
            result = await self.encoders.classify(inputs, query.precision, deadline, snapshot.encoder(SPACE_PRODUCT))
        return _response(query, version, inputs, result, permit.timer)

    async def _encode(self, query: ClassifyQuery, snapshot: Snapshot, deadline: Deadline) -> InputVectors:
        """Encode the photo and the text; neither is known of a text alone of which the encoder knows no word."""
        image, text = await run_concurrently(
            [self._encode_image(query, snapshot, deadline), self._encode_text(query, snapshot, deadline)]
        )
        return InputVectors(image, text)

    async def _encode_image(self, query: ClassifyQuery, snapshot: Snapshot, deadline: Deadline) -> EncodedVector | None:
        if query.image is None:
            return None
        self.callers.count_photos(1)
        return await self.encoders.encode_image("image", query.image, deadline, snapshot.encoder(SPACE_IMAGE))

    async def _encode_text(self, query: ClassifyQuery, snapshot: Snapshot, deadline: Deadline) -> EncodedVector | None:
        """The text's vector; None without a text, and for a text of which the encoder knows no word."""
        if query.text is None:
            return None
        encoded = await self.encoders.encode_text(query.text, deadline, snapshot.encoder(SPACE_TEXT))
        return encoded if encoded.vector.any() else None


def _stored_inputs(fetched: index_pb2.FetchedProduct, product_id: str, snapshot: Snapshot) -> InputVectors:
    """The product's stored image and text vectors. Raises NotFound for an unknown product, or one with neither."""
    stored = StoredProduct.from_fetched(product_id, fetched)
    image, text = (_stored_vector(stored, space, snapshot) for space in _INPUT_SPACES)
    if image is None and text is None:
        raise NotFound(f"product {product_id} has neither a photo nor a text vector")
    return InputVectors(image, text)


def _stored_vector(stored: StoredProduct, space: Space.ValueType, snapshot: Snapshot) -> EncodedVector | None:
    if (info := snapshot.spaces.get(space)) is None:
        return None
    vector = stored.vector(space, info.dim)
    return None if vector is None else EncodedVector(vector, info.encoder)


def _response(
    query: ClassifyQuery, version: str, inputs: InputVectors, result: ClassificationResult, timer: RequestTimer
) -> search_pb2.ClassifyResponse:
    likeliest = result.likeliest
    abstention_reason = _abstention_reason(likeliest.values[0], likeliest.threshold, query.precision)
    metrics.CLASSIFIED.labels("abstained" if abstention_reason else "named").inc()
    response = search_pb2.ClassifyResponse(
        category="" if abstention_reason else likeliest.categories[0],
        abstention_reason=abstention_reason,
        provenance=search_pb2.ClassifyProvenance(
            encoder=result.encoder,
            version=version,
            inputs=[*([SPACE_IMAGE] if inputs.image else []), *([SPACE_TEXT] if inputs.text else [])],
            precision=query.precision,
            threshold=likeliest.threshold,
            degraded=classification_degradations(query, inputs),
            timings=timings(timer),
        ),
    )
    for category, probability in list(zip(likeliest.categories, likeliest.values, strict=True))[: query.limit]:
        response.categories.add(category=category, probability=probability)
    return response


def _abstention(query: ClassifyQuery, inputs: InputVectors, timer: RequestTimer) -> search_pb2.ClassifyResponse:
    """The response to a text alone of which the text encoder knows no word."""
    metrics.CLASSIFIED.labels("abstained").inc()
    return search_pb2.ClassifyResponse(
        abstention_reason="the text encoder knows no word of the text",
        provenance=search_pb2.ClassifyProvenance(
            precision=query.precision, degraded=classification_degradations(query, inputs), timings=timings(timer)
        ),
    )


def _abstention_reason(probability: float, threshold: float, precision: float) -> str:
    """Why the response has no category; empty if it has one."""
    if threshold >= UNREACHABLE:
        return f"no probability reached precision {precision:.3g} on held-out products"
    if probability < threshold:
        return (
            f"the likeliest category has probability {probability:.3f}; "
            f"precision {precision:.3g} on held-out products needs at least {threshold:.3f}"
        )
    return ""
