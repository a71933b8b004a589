"""Changes of the catalogue: each goes to the one shard that owns the product, and is durable when it is answered."""

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
from server.composition import of_index
from server.encoding import Encoders, Known
from server.shard_group import ShardGroup
from server.topology import Snapshot
from server.vector_math import unit_vector
from server.version_watch import VersionWatch

FULL_RETRY_S = 1.0  # About what a compaction takes.


@dataclass(frozen=True, slots=True)
class CatalogWriter:
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
        vectors = _given(request, snapshot)
        if request.encode:
            vectors = {**await self._encoded(request, vectors, snapshot, deadline), **vectors}
            if not vectors:  # In the place of one that was found, it would be the end of it.
                spaces = ", ".join(map(space_name, sorted(snapshot.spaces)))
                raise InvalidRequest("encode", f"nothing is given to make a vector of; the spaces are {spaces}")
        elif request.image:
            raise InvalidRequest("image", "is given without `encode`: photos are not kept")
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

    async def _encoded(
        self,
        request: catalog_pb2.UpsertRequest,
        given: Mapping[Space.ValueType, F32],
        snapshot: Snapshot,
        deadline: Deadline,
    ) -> dict[Space.ValueType, F32]:
        """Vectors of the spaces that none was given of, as far as there is a photo, or words, to make them from.

        Where a product has a vector of its photo or its words already, its product vector is made of these.
        """
        wanted = snapshot.spaces.keys() - given.keys()
        fused = SPACE_PRODUCT in wanted
        image = text = None
        if SPACE_IMAGE in given:
            image = given[SPACE_IMAGE], snapshot.spaces[SPACE_IMAGE].encoder
        elif request.image and (fused or SPACE_IMAGE in wanted):
            check_image("image", request.image)
            image = await self.encoders.image("image", request.image, deadline)
        field = "title" if request.product.title else "description"  # As the update does (pipeline/words.py).
        words: str = getattr(request.product, field)
        if SPACE_TEXT in given:
            text = given[SPACE_TEXT], snapshot.spaces[SPACE_TEXT].encoder
        elif words and (fused or SPACE_TEXT in wanted):
            check_text_length(f"product.{field}", words)
            encoded = await self.encoders.text(words, deadline)
            text = encoded if encoded[0].any() else None
        made = {SPACE_IMAGE: image, SPACE_TEXT: text}
        if fused and (image or text):
            made[SPACE_PRODUCT] = await self.encoders.product(Known(image=image, text=text), deadline)
        return {
            space: of_index(vector, snapshot.spaces[space])
            for space, vector in made.items()
            if vector and space in wanted
        }


def _given(request: catalog_pb2.UpsertRequest, snapshot: Snapshot) -> dict[Space.ValueType, F32]:
    """Of unit norm. Raises InvalidRequest; FailedPrecondition for a space that the version lacks."""
    vectors: dict[Space.ValueType, F32] = {}
    for i, given in enumerate(request.vectors):
        if given.space not in VECTOR_SPACES.values():
            raise InvalidRequest(f"vectors[{i}].space", f"name one of {', '.join(VECTOR_SPACES)}")
        if given.space in vectors:
            raise InvalidRequest(f"vectors[{i}].space", "this space has a vector already")
        (info,) = snapshot.require_spaces([given.space]).values()
        vectors[given.space] = unit_vector(f"vectors[{i}].vector", given.vector, info.dim)
    return vectors


def _check_revision(revision: int) -> None:
    if not revision:
        raise InvalidRequest("revision", "is 0; give the change a number above, greater than that of every older one")
