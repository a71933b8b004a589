"""Changes to the catalogue: upserts and removals. I/O to the encoders and the shard that owns the product.

A change is durable on the disk of its shard before the response is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lookalike.errors import InvalidRequest, Overloaded
from lookalike.runtime.deadline import Deadline
from lookalike.spaces import VECTOR_SPACES, space_name
from lookalike.v1 import catalog_pb2
from lookalike.v1.index_pb2 import Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space, SpaceVector
from lookalike.vectors import F32, pack
from server.admission import Permit
from server.checks import check_image, check_product_id, check_text_length
from server.encoding import EncodedVector, Encoders, InputVectors
from server.query_vectors import require_encoder
from server.shard_group import ShardGroup
from server.topology import Snapshot
from server.vector_math import unit_vector
from server.version_watch import VersionWatch

FULL_RETRY_S = 1.0  # About how long a compaction takes, which makes room for changes.


@dataclass(frozen=True, slots=True)
class CatalogWriter:
    """The handlers of Upsert and Remove."""

    versions: VersionWatch
    shards: ShardGroup
    encoders: Encoders
    default_deadline_s: float

    async def upsert(
        self, request: catalog_pb2.UpsertRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.ChangeResponse:
        check_product_id("product.id", request.product.id)
        _check_revision(request.revision)
        deadline = deadline.or_after(self.default_deadline_s)
        snapshot = self.versions.snapshot()
        vectors = _parse_vectors(request, snapshot)
        if request.encode:
            vectors = {**await self._encode_missing(request, vectors, snapshot, deadline), **vectors}
            if not vectors:  # An upsert without vectors would make the product unfindable.
                spaces = ", ".join(map(space_name, sorted(snapshot.spaces)))
                raise InvalidRequest("encode", f"there is nothing to encode for any of the spaces {spaces}")
        elif request.image:
            raise InvalidRequest("image", "is set without `encode`: photos are only encoded, never stored")
        upsert = Upsert(
            product=request.product,
            vectors=[SpaceVector(space=space, vector=pack(vector)) for space, vector in sorted(vectors.items())],
        )
        update = Update(revision=request.revision, upsert=upsert)
        applied = await self._apply(snapshot, request.product.id, update, deadline)
        return catalog_pb2.ChangeResponse(applied=applied, spaces=sorted(vectors) if applied else ())

    async def remove(
        self, request: catalog_pb2.RemoveRequest, deadline: Deadline, permit: Permit
    ) -> catalog_pb2.ChangeResponse:
        check_product_id("product_id", request.product_id)
        _check_revision(request.revision)
        update = Update(revision=request.revision, remove=request.product_id)
        deadline = deadline.or_after(self.default_deadline_s)
        applied = await self._apply(self.versions.snapshot(), request.product_id, update, deadline)
        return catalog_pb2.ChangeResponse(applied=applied)

    async def _apply(self, snapshot: Snapshot, product_id: str, update: Update, deadline: Deadline) -> bool:
        result, sequences = await self.shards.apply(snapshot, product_id, update, deadline)
        self.versions.note_applied(snapshot.version, sequences)
        if result.outcome == UpdateResult.INVALID:
            raise InvalidRequest("product", result.error)
        if result.outcome == UpdateResult.FULL:
            raise Overloaded(result.error, retry_after_s=FULL_RETRY_S)
        return result.outcome == UpdateResult.APPLIED

    async def _encode_missing(
        self,
        request: catalog_pb2.UpsertRequest,
        request_vectors: Mapping[Space.ValueType, F32],
        snapshot: Snapshot,
        deadline: Deadline,
    ) -> dict[Space.ValueType, F32]:
        """Encode vectors for the spaces that the request has no vector for, from its photo and its text.

        The product vector is fused from the image and text vectors in the request; from encoded ones where it has none.
        """
        missing = snapshot.spaces.keys() - request_vectors.keys()
        fuse = SPACE_PRODUCT in missing
        image = text = None
        if SPACE_IMAGE in request_vectors:
            image = EncodedVector(request_vectors[SPACE_IMAGE], snapshot.spaces[SPACE_IMAGE].encoder)
        elif request.image and (fuse or SPACE_IMAGE in missing):
            check_image("image", request.image)
            image = await self.encoders.encode_image("image", request.image, deadline)
        # The nightly update encodes the same field (pipeline/text_encoding.py).
        field = "title" if request.product.title else "description"
        words: str = getattr(request.product, field)
        if SPACE_TEXT in request_vectors:
            text = EncodedVector(request_vectors[SPACE_TEXT], snapshot.spaces[SPACE_TEXT].encoder)
        elif words and (fuse or SPACE_TEXT in missing):
            check_text_length(f"product.{field}", words)
            encoded = await self.encoders.encode_text(words, deadline)
            text = encoded if encoded.vector.any() else None
        vectors = {SPACE_IMAGE: image, SPACE_TEXT: text}
        if fuse and (image or text):
            vectors[SPACE_PRODUCT] = await self.encoders.encode_product(InputVectors(image, text), deadline)
        return {
            space: require_encoder(encoded, snapshot.spaces[space])
            for space, encoded in vectors.items()
            if encoded and space in missing
        }


def _parse_vectors(request: catalog_pb2.UpsertRequest, snapshot: Snapshot) -> dict[Space.ValueType, F32]:
    """Parse the vectors in the request, scaled to unit norm.

    Raises InvalidRequest, and FailedPrecondition for a space that the version does not have.
    """
    vectors: dict[Space.ValueType, F32] = {}
    for i, each in enumerate(request.vectors):
        if each.space not in VECTOR_SPACES.values():
            raise InvalidRequest(f"vectors[{i}].space", f"name one of {', '.join(VECTOR_SPACES)}")
        if each.space in vectors:
            raise InvalidRequest(f"vectors[{i}].space", "this space has a vector already")
        (info,) = snapshot.require_spaces([each.space]).values()
        vectors[each.space] = unit_vector(f"vectors[{i}].vector", each.vector, info.dim)
    return vectors


def _check_revision(revision: int) -> None:
    if not revision:
        raise InvalidRequest("revision", "is 0; it must be above 0, and greater than that of every earlier change")
