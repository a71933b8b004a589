"""Check an `Update` message and parse it into a `Change`. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import chain
from typing import NamedTuple

import numpy as np

from index.storage.attributes import MAX_PRODUCT_BYTES
from lookalike.limits import MAX_ID_BYTES, MAX_TEXT_BYTES
from lookalike.product_rules import FIELDS, normalise_tags
from lookalike.timestamps import MAX_UNIX_S
from lookalike.v1 import index_pb2
from lookalike.v1.index_pb2 import ChangeKind
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, normalised, pack, unpack

_NEVER_PATCHED = frozenset(("id", "revision"))
PATCHABLE = frozenset(FIELDS) - _NEVER_PATCHED  # The fields of a product that a patch can change.

_UNIT = 1e-6  # How far from 1 the square of a norm of rounded components may be: gateways send unit vectors.


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
    keeps_vectors: bool = False  # `product` is new, and its vectors stay where they are: in a segment on disk.


class NoProduct(LookupError):
    """A patch of a product that does not exist."""


def brings_vectors(update: index_pb2.Update) -> bool:
    """Whether the product has the update's own vectors after it, or is gone."""
    match update.WhichOneof("what"):
        case "upsert":
            return bool(update.upsert.vectors or update.upsert.stored_vectors) or not update.upsert.keep_vectors
        case "patch":
            return bool(update.patch.vectors)
    return True


def updated_id(update: index_pb2.Update) -> bytes:
    """The id of the product that an update changes. Raises ValueError with what is wrong."""
    if not update.revision:
        raise ValueError("revision: must be above 0; 0 is the revision of a product that was never updated")
    match update.WhichOneof("what"):
        case "remove":
            return _parse_id(update.remove)
        case "upsert":
            return _parse_id(update.upsert.product.id)
        case "patch":
            return _parse_id(update.patch.product.id)
    raise ValueError("the update is neither an upsert, a patch nor a removal")


def changes_in_part(update: index_pb2.Update) -> bool:
    """Whether it takes the product as it is to say what it will be."""
    return update.WhichOneof("what") == "patch" or update.upsert.keep_vectors


def keeps_all_vectors(update: index_pb2.Update) -> bool:
    """Whether the update changes none of the product's vectors."""
    match update.WhichOneof("what"):
        case "patch":
            return not update.patch.vectors
        case "upsert":
            return update.upsert.keep_vectors and not update.upsert.vectors
    return False


def change_kind(update: index_pb2.Update, *, same_expiry: bool) -> ChangeKind.ValueType:
    """How an update may change answers.

    same_expiry: whether the product was there before, with the same `expires_at`: another one may bring back a product
    that has expired, as an upsert would.
    """
    if update.WhichOneof("what") == "remove":
        return index_pb2.CHANGE_KIND_REMOVAL
    return index_pb2.CHANGE_KIND_PATCH if same_expiry and keeps_all_vectors(update) else index_pb2.CHANGE_KIND_UPSERT


def resolve(
    update: index_pb2.Update, before: Product | None, vectors: Callable[[], Mapping[Space.ValueType, F32]] | None
) -> index_pb2.Update:
    """The update as one that says all by itself, whatever the product was before.

    before:  the product, with its description; a patch changes it. None: there is none.
    vectors: its vectors; None: they stay where they are, and the update must change none.
    Returns an upsert with all vectors or, where they stay, a patch with the whole product. Raises NoProduct and
    ValueError.
    """
    is_patch = update.WhichOneof("what") == "patch"
    if is_patch and before is None:
        raise NoProduct(f"no product {update.patch.product.id}")
    if before is None or not (is_patch or update.upsert.keep_vectors):
        return update
    if is_patch:
        _apply_patch(update.patch, before)
    product = before if is_patch else update.upsert.product
    resolved = index_pb2.Update(revision=update.revision, max_revision=update.max_revision)
    if vectors is None:
        resolved.patch.product.CopyFrom(product)
        return resolved
    new = update.patch.vectors if is_patch else update.upsert.vectors
    given = {each.space for each in new}
    resolved.upsert.product.CopyFrom(product)
    resolved.upsert.vectors.extend(new)
    for space, vector in vectors().items():
        if space not in given:
            resolved.upsert.stored_vectors.add(space=space, vector=pack(vector))
    resolved.upsert.require_vector = update.upsert.require_vector
    return resolved


def _apply_patch(patch: index_pb2.Patch, product: Product) -> None:
    if not PATCHABLE.issuperset(patch.fields):
        unknown = ", ".join(sorted(set(patch.fields) - PATCHABLE))
        raise ValueError(f"{unknown}: a patch can change {', '.join(sorted(PATCHABLE))}")
    others = {field.name for field, _ in patch.product.ListFields()}.difference(patch.fields, _NEVER_PATCHED)
    if others:
        raise ValueError(f"{', '.join(sorted(others))}: set, and not among the fields of the patch")
    for field in patch.fields:
        product.ClearField(field)  # type: ignore[arg-type]  # a field of Product
    product.MergeFrom(patch.product)


def parse_update(update: index_pb2.Update, dims: Mapping[Space.ValueType, int]) -> Change:
    """Parse an update that `resolve` returned; that of a patch becomes the change's product.

    dims: maps each space of the shard to its dimension.
    Deterministic to the last bit: replaying a log gives the same vectors. Raises ValueError with what is wrong.
    """
    product_id = updated_id(update)
    what = update.WhichOneof("what")
    if what == "remove":
        return Change(product_id, update.revision, None, {}, update.generation)
    if what == "patch":
        product = _check_product(update.patch.product, update.revision)
        return Change(product_id, update.revision, product, {}, keeps_vectors=True)
    upsert = update.upsert
    vectors = _parse_vectors(upsert, dims)
    if upsert.require_vector and not vectors:
        raise ValueError("the product would have no vector: no search would find it")
    product = Product()
    product.CopyFrom(upsert.product)
    return Change(product_id, update.revision, _check_product(product, update.revision), vectors)


def check_owner(hashed: int, shard: int, shards: int) -> None:
    """Raise ValueError for a product, given by its `product_hash`, that another shard owns."""
    if (owner := hashed % shards) != shard:
        raise ValueError(f"the product belongs to shard {owner} of {shards}, not to shard {shard}")


def _parse_id(product_id: str) -> bytes:
    encoded = product_id.encode()
    if not 1 <= len(encoded) <= MAX_ID_BYTES:
        raise ValueError(f"the id has {len(encoded)} bytes, expected 1 to {MAX_ID_BYTES}")
    return encoded


def _check_product(product: Product, revision: int) -> Product:
    """The product, changed to be as it is stored.

    Gateways keep to the rules for a product; here is what a shard itself relies on.
    """
    tags = [*product.tags]
    if tags and ("" in tags or tags != sorted({tag.strip() for tag in tags})):
        product.tags[:] = normalise_tags(tags)
    product.revision = revision
    if not product.HasField("in_stock"):
        product.in_stock = True
    if product.HasField("price") and not 0 <= product.price < math.inf:
        raise ValueError("the price is not a finite number of 0 or more")
    for name, time_s in (("created_at", product.created_at), ("expires_at", product.expires_at)):
        if not 0 <= time_s <= MAX_UNIX_S:
            raise ValueError(f"{name} is not between 1970 and 5138; its unit is seconds since 1970")
    description_bytes = len(product.description.encode()) if product.description else 0
    if description_bytes > MAX_TEXT_BYTES:
        raise ValueError(f"the description has over {MAX_TEXT_BYTES} bytes")
    if product.ByteSize() - description_bytes > MAX_PRODUCT_BYTES:
        raise ValueError(f"the product has over {MAX_PRODUCT_BYTES} bytes without its description")
    return product


def _parse_vectors(upsert: index_pb2.Upsert, dims: Mapping[Space.ValueType, int]) -> dict[Space.ValueType, F32]:
    vectors: dict[Space.ValueType, F32] = {}
    for space_vector in chain(upsert.vectors, upsert.stored_vectors):
        space = space_vector.space
        if (dim := dims.get(space)) is None:
            raise ValueError(f"this shard has no space {space}")
        if space in vectors:
            raise ValueError(f"the product has two vectors of space {space}")
        if len(space_vector.vector) != 4 * dim:
            raise ValueError(f"the vector has {len(space_vector.vector)} bytes, expected {4 * dim} ({dim} dimensions)")
        vectors[space] = unpack(space_vector.vector, dim)[0]
    for space_vector in upsert.vectors:
        vectors[space_vector.space] = _unit_vector(vectors[space_vector.space], space_vector.space)
    return vectors


def _unit_vector(vector: F32, space: Space.ValueType) -> F32:
    square = float(vector @ vector)
    if abs(square - 1) <= _UNIT:
        return vector
    if not np.isfinite(vector).all():
        raise ValueError(f"the vector of space {space} is not finite")
    if not vector.any():
        raise ValueError(f"the vector of space {space} is zero: it has no direction, so it is similar to nothing")
    unit: F32 = normalised(vector[None])[0]
    return unit
