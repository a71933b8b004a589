"""The vectors of a changed product: those of its request, and those that are encoded for it. I/O to the encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from encoders.clients import EncodedVector, Encoders, InputVectors
from lookalike.errors import InvalidRequest
from lookalike.product_rules import embedded_texts
from lookalike.runtime.deadline import Deadline
from lookalike.spaces import VECTOR_SPACES
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Product, Space, SpaceVector
from lookalike.vectors import F32
from server.checks import check_image
from server.key_limits import KeyLimits
from server.query_vectors import require_encoder
from server.topology import Snapshot
from server.vector_math import unit_vector

Vectors = Mapping[Space.ValueType, F32]  # Each (dim,), of unit norm.


def parse_vectors(vectors: Iterable[SpaceVector], snapshot: Snapshot) -> dict[Space.ValueType, F32]:
    """The vectors of a request, scaled to unit norm.

    Raises InvalidRequest, and FailedPrecondition for a space that the version does not have, or of another encoder.
    """
    parsed: dict[Space.ValueType, F32] = {}
    for i, each in enumerate(vectors):
        if each.space not in VECTOR_SPACES.values():
            raise InvalidRequest(f"vectors[{i}].space", f"name one of {', '.join(VECTOR_SPACES)}")
        if each.space in parsed:
            raise InvalidRequest(f"vectors[{i}].space", "this space has a vector already")
        (info,) = snapshot.require_spaces([each.space]).values()
        vector = unit_vector(f"vectors[{i}].vector", each.vector, info.dim)
        if each.encoder:
            require_encoder(EncodedVector(vector, each.encoder), info)
        parsed[each.space] = vector
    return parsed


@dataclass(frozen=True, slots=True)
class ChangeEncoder:
    """Encodes the vectors of changed products."""

    encoders: Encoders
    callers: KeyLimits

    async def encode(
        self,
        product: Product,
        photo: bytes,
        *,
        given: Vectors,
        stored: Vectors,
        snapshot: Snapshot,
        deadline: Deadline,
        text: bool = True,
    ) -> dict[Space.ValueType, F32]:
        """Encode the photo, the text and their fusion, but for the spaces for which the request gives a vector.

        photo:  empty: none is encoded.
        stored: vectors that the product keeps; the product vector is fused from them where nothing newer is known.
        text:   whether to encode the product's text.
        """
        missing = snapshot.spaces.keys() - given.keys()
        fuse = SPACE_PRODUCT in missing
        new_image = new_text = None
        if photo and SPACE_IMAGE not in given and (fuse or SPACE_IMAGE in missing):
            check_image("image", photo)
            self.callers.count_photos(1)
            new_image = await self.encoders.encode_image("image", photo, deadline, snapshot.encoder(SPACE_IMAGE))
        if text and SPACE_TEXT not in given and (fuse or SPACE_TEXT in missing):
            new_text = await self._encode_text(product, snapshot, deadline)
        vectors = {SPACE_IMAGE: new_image, SPACE_TEXT: new_text}
        inputs = InputVectors(
            new_image or _known(SPACE_IMAGE, given, stored, snapshot),
            new_text or _known(SPACE_TEXT, given, stored, snapshot),
        )
        if fuse and (inputs.image or inputs.text):
            vectors[SPACE_PRODUCT] = await self.encoders.encode_product(
                inputs, deadline, snapshot.encoder(SPACE_PRODUCT)
            )
        return {
            space: require_encoder(vector, snapshot.spaces[space])
            for space, vector in vectors.items()
            if vector and space in missing
        }

    async def _encode_text(self, product: Product, snapshot: Snapshot, deadline: Deadline) -> EncodedVector | None:
        """The vector of the title, or of the description if the encoder knows no word of the title; None of neither."""
        for text in embedded_texts(product.title, product.description):
            encoded = await self.encoders.encode_text(text, deadline, snapshot.encoder(SPACE_TEXT))
            if encoded.vector.any():
                return encoded
        return None


def _known(space: Space.ValueType, given: Vectors, stored: Vectors, snapshot: Snapshot) -> EncodedVector | None:
    vector = given.get(space, stored.get(space))
    return None if vector is None else EncodedVector(vector, snapshot.spaces[space].encoder)
