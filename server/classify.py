"""One classification: which category does this product, photo or title belong to?"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lookalike.errors import InvalidRequest, NotFound
from lookalike.runtime.deadline import Deadline
from lookalike.v1 import index_pb2, search_pb2
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT, Space
from server import answer
from server.admission import Permit
from server.classify_request import ClassifyInput, parse_classify_request
from server.encoding import Classification, Encoders, Known, Vector
from server.metrics import RequestTimer
from server.shard_group import ShardGroup
from server.stored import Stored
from server.topology import Snapshot
from server.version_watch import VersionWatch

NEVER = 2.0  # The threshold of a precision that answers of no probability had: above every probability.


@dataclass(frozen=True, slots=True)
class Classifier:
    versions: VersionWatch
    shards: ShardGroup
    encoders: Encoders
    default_deadline_s: float

    async def classify(
        self, request: search_pb2.ClassifyRequest, deadline: Deadline, permit: Permit
    ) -> search_pb2.ClassifyResponse:
        deadline = deadline.or_after(self.default_deadline_s)
        subject, version = parse_classify_request(request), ""
        if subject.product_id is None:
            with permit.timer.stage("encode"):
                known = await self._encoded(subject, deadline)
        else:
            snapshot = self.versions.snapshot()
            version = snapshot.version
            with permit.timer.stage("lookup"):
                fetched = await self.shards.lookup(snapshot, subject.product_id, deadline)
            known = _stored(fetched, subject.product_id, snapshot)
        with permit.timer.stage("encode"):
            classification = await self.encoders.classified(known, subject.precision, deadline)
        return _response(subject, version, known, classification, permit.timer)

    async def _encoded(self, subject: ClassifyInput, deadline: Deadline) -> Known:
        """Raises InvalidRequest for a text without words that are known where there is no photo to go by."""
        image, text = await asyncio.gather(self._image(subject, deadline), self._text(subject, deadline))
        if image is None and text is None:
            raise InvalidRequest("text", "has no words that the text encoder knows")
        return Known(image, text)

    async def _image(self, subject: ClassifyInput, deadline: Deadline) -> Vector | None:
        return None if subject.image is None else await self.encoders.image("image", subject.image, deadline)

    async def _text(self, subject: ClassifyInput, deadline: Deadline) -> Vector | None:
        """None, too, for a text without words that the encoder knows."""
        if subject.text is None:
            return None
        vector = await self.encoders.text(subject.text, deadline)
        return vector if vector[0].any() else None


def _stored(fetched: index_pb2.FetchedProduct, product_id: str, snapshot: Snapshot) -> Known:
    stored = Stored.of(product_id, fetched)
    image, text = (_vector(stored, space, snapshot) for space in (SPACE_IMAGE, SPACE_TEXT))
    if image is None and text is None:
        raise NotFound(f"product {product_id} has neither a photo nor a text vector")
    return Known(image, text)


def _vector(stored: Stored, space: Space.ValueType, snapshot: Snapshot) -> Vector | None:
    if (info := snapshot.spaces.get(space)) is None:
        return None
    vector = stored.vector(space, info.dim)
    return None if vector is None else (vector, info.encoder)


def _response(
    subject: ClassifyInput, version: str, known: Known, classification: Classification, timer: RequestTimer
) -> search_pb2.ClassifyResponse:
    likeliest = classification.likeliest
    abstained = _abstained(likeliest.values[0], likeliest.threshold, subject.precision)
    response = search_pb2.ClassifyResponse(
        category="" if abstained else likeliest.categories[0],
        abstention_reason=abstained,
        provenance=search_pb2.ClassifyProvenance(
            encoder=classification.encoder,
            version=version,
            inputs=[*([SPACE_IMAGE] if known.image else []), *([SPACE_TEXT] if known.text else [])],
            precision=subject.precision,
            threshold=likeliest.threshold,
            degraded=answer.degraded_classification(subject, known),
            timings=answer.timings(timer),
        ),
    )
    for category, probability in list(zip(likeliest.categories, likeliest.values, strict=True))[: subject.limit]:
        response.categories.add(category=category, probability=probability)
    return response


def _abstained(probability: float, threshold: float, precision: float) -> str:
    """Why no category is given, or nothing."""
    if threshold >= NEVER:
        return f"no probability gave answers of which {precision:.3g} were right on held-out products"
    if probability < threshold:
        return (
            f"the likeliest category has probability {probability:.3f}; of answers from {threshold:.3f} on, "
            f"{precision:.3g} were right on held-out products"
        )
    return ""
