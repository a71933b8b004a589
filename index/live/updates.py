"""Check an `Update` message and parse it into a `Change`. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from index.storage import tags
from index.storage.attributes import MAX_DESCRIPTION_BYTES, MAX_ID_BYTES, MAX_PRODUCT_BYTES
from lookalike.runtime.partition import shard_of
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1 import index_pb2
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, normalised, unpack


class Tombstone(NamedTuple):
    """What is kept of a removed product, so that no older update brings it back."""

    revision: int
    generation: int  # How many times it was migrated from one version to the next.


class Change(NamedTuple):
    """An update that has been checked: the new state of one product."""

    id: bytes
    revision: int
    product: Product | None  # None: a removal.
    vectors: Mapping[Space.ValueType, F32]  # Each (dim,), of unit norm.
    generation: int = 0  # Of a removal: as in `Tombstone`.


def parse_update(update: index_pb2.Update, dims: Mapping[Space.ValueType, int]) -> Change:
    """Parse an update; `dims` maps each space of the shard to its dimension.

    Deterministic to the last bit: replaying a log gives the same vectors. Raises ValueError with what is wrong.
    """
    if not update.revision:
        raise ValueError("revision: must be above 0; 0 is the revision of a product that was never updated")
    match update.WhichOneof("what"):
        case "remove":
            return Change(_parse_id(update.remove), update.revision, None, {}, update.generation)
        case "upsert":
            product = _check_product(update.upsert.product)
            return Change(_parse_id(product.id), update.revision, product, _parse_vectors(update.upsert, dims))
    raise ValueError("the update is neither an upsert nor a removal")


def check_owner(change: Change, shard: int, shards: int) -> None:
    """Raise ValueError for a product that another shard owns."""
    if (owner := shard_of(change.id.decode(), shards)) != shard:
        raise ValueError(f"the product belongs to shard {owner} of {shards}, not to shard {shard}")


def _parse_id(product_id: str) -> bytes:
    encoded = product_id.encode()
    if not 1 <= len(encoded) <= MAX_ID_BYTES:
        raise ValueError(f"the id has {len(encoded)} bytes, expected 1 to {MAX_ID_BYTES}")
    return encoded


def _check_product(received: Product) -> Product:
    """A copy with normalised tags, checked as a catalogue's rows are."""
    product = Product()
    product.CopyFrom(received)
    product.tags[:] = tags.normalise_tags(received.tags)
    if not math.isfinite(product.price):
        raise ValueError("the price is not finite")
    if not 0 <= product.created_at <= MAX_UNIX_S:
        raise ValueError("created_at is not between 1970 and 5138; its unit is seconds since 1970")
    description_bytes = len(product.description.encode())
    if description_bytes > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"the description has over {MAX_DESCRIPTION_BYTES} bytes")
    if product.ByteSize() - description_bytes > MAX_PRODUCT_BYTES:
        raise ValueError(f"the product has over {MAX_PRODUCT_BYTES} bytes without its description")
    return product


def _parse_vectors(upsert: index_pb2.Upsert, dims: Mapping[Space.ValueType, int]) -> dict[Space.ValueType, F32]:
    vectors: dict[Space.ValueType, F32] = {}
    for space_vector in upsert.vectors:
        space = space_vector.space
        if (dim := dims.get(space)) is None:
            raise ValueError(f"this shard has no space {space}")
        if space in vectors:
            raise ValueError(f"the product has two vectors of space {space}")
        if len(space_vector.vector) != 4 * dim:
            raise ValueError(f"the vector has {len(space_vector.vector)} bytes, expected {4 * dim} ({dim} dimensions)")
        vector = unpack(space_vector.vector, dim)
        if not np.isfinite(vector).all():
            raise ValueError(f"the vector of space {space} is not finite")
        if not vector.any():
            raise ValueError(f"the vector of space {space} is zero: it has no direction, so it is similar to nothing")
        vectors[space] = normalised(vector)[0]
    return vectors
