"""What an `Update` asks, once it has been checked. Pure."""

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


class Removal(NamedTuple):
    """What is remembered of a product that was removed, so that no older update undoes it."""

    revision: int
    generation: int  # How many versions have taken it over from another.


class Change(NamedTuple):
    id: bytes
    revision: int
    product: Product | None  # None: it is removed.
    vectors: Mapping[Space.ValueType, F32]  # Each (dim,), of unit norm.
    generation: int = 0  # As in `Removal`.


def changed(update: index_pb2.Update, dims: Mapping[Space.ValueType, int]) -> Change:
    """The same for the same update, to the last bit: a log that is read again gives the same vectors.

    dims: of the spaces there are. Raises ValueError with what is wrong with the update.
    """
    if not update.revision:
        raise ValueError("revision: 0 is that of a product nobody updated; give one above")
    match update.WhichOneof("what"):
        case "remove":
            return Change(_id(update.remove), update.revision, None, {}, update.generation)
        case "upsert":
            product = _checked(update.upsert.product)
            return Change(_id(product.id), update.revision, product, _vectors(update.upsert, dims))
    raise ValueError("neither an upsert nor a removal")


def refuse_foreign(change: Change, shard: int, shards: int) -> None:
    """Raises ValueError for a product that another shard owns."""
    if (owner := shard_of(change.id.decode(), shards)) != shard:
        raise ValueError(f"the product belongs to shard {owner} of {shards}, not to shard {shard}")


def _id(product_id: str) -> bytes:
    encoded = product_id.encode()
    if not 1 <= len(encoded) <= MAX_ID_BYTES:
        raise ValueError(f"an id has 1..{MAX_ID_BYTES} bytes, not {len(encoded)}")
    return encoded


def _checked(given: Product) -> Product:
    """As a catalogue's rows are checked."""
    product = Product()
    product.CopyFrom(given)
    product.tags[:] = tags.normalise_tags(given.tags)
    if not math.isfinite(product.price):
        raise ValueError("the price is not finite")
    if not 0 <= product.created_at <= MAX_UNIX_S:
        raise ValueError("created_at is not between 1970 and 5138: seconds since 1970 are meant")
    described = len(product.description.encode())
    if described > MAX_DESCRIPTION_BYTES:
        raise ValueError(f"the description has over {MAX_DESCRIPTION_BYTES} bytes")
    if product.ByteSize() - described > MAX_PRODUCT_BYTES:
        raise ValueError(f"the product has over {MAX_PRODUCT_BYTES} bytes without its description")
    return product


def _vectors(upsert: index_pb2.Upsert, dims: Mapping[Space.ValueType, int]) -> dict[Space.ValueType, F32]:
    vectors: dict[Space.ValueType, F32] = {}
    for given in upsert.vectors:
        if (dim := dims.get(given.space)) is None:
            raise ValueError(f"no space {given.space} here")
        if given.space in vectors:
            raise ValueError(f"two vectors of space {given.space}")
        if len(given.vector) != 4 * dim:
            raise ValueError(f"a vector of {len(given.vector)} bytes in a space of {dim} dimensions")
        vector = unpack(given.vector, dim)
        if not np.isfinite(vector).all():
            raise ValueError(f"the vector of space {given.space} is not finite")
        if not vector.any():
            raise ValueError(f"the vector of space {given.space} is zero: it is similar to nothing")
        vectors[given.space] = normalised(vector)[0]
    return vectors
