"""Build changes to the catalogue from keyword arguments, and batches of them. Reads photo files; no other I/O.

Only values that the messages cannot hold are refused here; the server checks everything else.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime
from pathlib import Path
from typing import Final, Required, TypedDict, Unpack

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_CHANGES, MAX_MESSAGE_BYTES, MAX_WRITE_BYTES
from lookalike.product_rules import FIELDS
from lookalike.requests import FilterArguments, Vector, check_uint, conditions, pack_vector, read_photo, vector_space
from lookalike.timestamps import unix_s
from lookalike.v1.catalog_pb2 import (
    BatchWriteRequest,
    Change,
    PatchRequest,
    RemoveRequest,
    RemoveWhereRequest,
    UpsertRequest,
)
from lookalike.v1.types_pb2 import Product, SpaceVector

Time = datetime | date | int  # A number is seconds since 1970; without a time zone, UTC.


class ChangeArguments(TypedDict, total=False):
    """The arguments that upserts and patches share."""

    revision: Required[int]  # Above 0: the highest wins. For example the time in milliseconds since 1970.
    vectors: Mapping[str, Vector] | None  # By the name of the space, each of the space's dimension.
    encode: bool  # Compute the other vectors, from the texts and from `image`.
    image: bytes | Path | None  # An encoded photo, or the file that holds it, for `encode`. Not stored.


class UpsertArguments(ChangeArguments, total=False):
    """The arguments of an upsert, beside the product."""

    keep_vectors: bool  # The product keeps the vectors that are neither given nor computed.
    allow_unfindable: bool  # Store the product even if it has no vector, so that no search finds it.


class PatchFields(TypedDict, total=False):
    """The fields of a product that a patch changes; None clears a field."""

    title: str | None
    description: str | None
    category: str
    shop: str | None
    price: float | None  # None: unknown.
    currency: str | None
    in_stock: bool | None  # None: true.
    image_path: str | None  # The field `image`: the path or URL of the photo, as the catalogue states it.
    url: str | None
    tags: Sequence[str] | None
    created_at: Time | None
    expires_at: Time | None  # From then on no search finds the product.


class PatchArguments(ChangeArguments, PatchFields, total=False):
    """The arguments of a patch, beside the product's id."""


_FIELDS: Final = {"image_path" if name == "image" else name: name for name in FIELDS if name not in ("id", "revision")}


def upsert_change(
    product: Product,
    *,
    revision: int,
    vectors: Mapping[str, Vector] | None = None,
    encode: bool = False,
    image: bytes | Path | None = None,
    keep_vectors: bool = False,
    allow_unfindable: bool = False,
) -> Change:
    """Add or replace a whole product. Raises InvalidRequest for values that the message cannot hold."""
    return Change(
        upsert=UpsertRequest(
            product=product,
            revision=_revision(revision),
            vectors=_space_vectors(vectors),
            encode=encode,
            image=_photo(image),
            keep_vectors=keep_vectors,
            allow_unfindable=allow_unfindable,
        )
    )


def patch_change(
    product_id: str,
    *,
    revision: int,
    vectors: Mapping[str, Vector] | None = None,
    encode: bool = False,
    image: bytes | Path | None = None,
    **fields: Unpack[PatchFields],
) -> Change:
    """Change some fields of a product. Raises InvalidRequest for values that the message cannot hold.

    patch_change("p-17", revision=1764066600000, price=4500, in_stock=False, tags=["sale"], expires_at=None)
    """
    patch = PatchRequest(
        product=Product(id=product_id),
        revision=_revision(revision),
        vectors=_space_vectors(vectors),
        encode=encode,
        image=_photo(image),
    )
    patch.update_mask.paths.extend(set_fields(patch.product, fields))
    return Change(patch=patch)


def remove_change(product_id: str, *, revision: int) -> Change:
    """Remove a product, which need not exist. Raises InvalidRequest if the revision does not fit 64 bits."""
    return Change(remove=RemoveRequest(product_id=product_id, revision=_revision(revision)))


def set_fields(product: Product, fields: Mapping[str, object]) -> Sequence[str]:
    """Set fields of a product, by their names in PatchFields; None clears one. Returns their names in Product.

    Raises InvalidRequest for an unknown name, and for a value that the field cannot hold.
    """
    for name, value in fields.items():
        if name not in _FIELDS:
            raise InvalidRequest(f"product.{name}", f"no such field; the fields are {', '.join(_FIELDS)}")
        try:
            _set_field(product, _FIELDS[name], value)
        except (TypeError, ValueError) as error:
            raise InvalidRequest(f"product.{_FIELDS[name]}", str(error)) from None
    return [_FIELDS[name] for name in fields]


def _set_field(product: Product, field: str, value: object) -> None:
    if value is None:
        product.ClearField(field)  # type: ignore[arg-type]  # a field of Product
    elif field in ("created_at", "expires_at"):
        setattr(product, field, unix_s(value))
    elif field != "tags":
        setattr(product, field, value)
    elif isinstance(value, Iterable) and not isinstance(value, str):  # "ab" would mean "a" and "b".
        product.tags[:] = value
    else:
        raise TypeError(f"expected a list of strings: [{value!r}]")


def batch_write_request(changes: Sequence[Change]) -> BatchWriteRequest:
    """The message of several changes. Raises InvalidRequest for more than one message may hold."""
    if len(changes) > MAX_CHANGES:
        raise InvalidRequest("changes", f"{len(changes)} changes, at most {MAX_CHANGES} are allowed in a batch")
    batch = BatchWriteRequest(changes=changes)
    if (size_bytes := batch.ByteSize()) > MAX_MESSAGE_BYTES:
        raise InvalidRequest("changes", f"{size_bytes} bytes together, at most {MAX_MESSAGE_BYTES} are allowed")
    return batch


def write_requests(changes: Iterable[Change], batch: int) -> Iterator[BatchWriteRequest]:
    """Messages of at most `batch` changes and MAX_WRITE_BYTES; a larger change has a message of its own.

    What `changes` raises is raised after the changes before it. Raises InvalidRequest for a change too large to send.
    """
    if not 1 <= batch <= MAX_CHANGES:
        raise InvalidRequest("batch", f"{batch} is not in 1..{MAX_CHANGES}")
    collected: list[Change] = []
    collected_bytes = 0
    try:
        for position, change in enumerate(changes):
            if (size_bytes := change.ByteSize()) > MAX_MESSAGE_BYTES:
                reason = f"has {size_bytes} bytes, at most {MAX_MESSAGE_BYTES} are allowed"
                raise InvalidRequest(f"changes[{position}]", reason)
            if collected and collected_bytes + size_bytes > MAX_WRITE_BYTES:
                yield BatchWriteRequest(changes=collected)
                collected, collected_bytes = [], 0
            collected.append(change)
            collected_bytes += size_bytes
            if len(collected) == batch:
                yield BatchWriteRequest(changes=collected)
                collected, collected_bytes = [], 0
    except Exception:
        if collected:
            yield BatchWriteRequest(changes=collected)
        raise
    if collected:
        yield BatchWriteRequest(changes=collected)


def remove_where_request(revision: int | None, dry_run: bool, filter_arguments: FilterArguments) -> RemoveWhereRequest:
    """Build a RemoveWhereRequest. Raises InvalidRequest for values that the message cannot hold."""
    return RemoveWhereRequest(filter=conditions(**filter_arguments), revision=_revision(revision), dry_run=dry_run)


def _space_vectors(vectors: Mapping[str, Vector] | None) -> list[SpaceVector]:
    return [
        SpaceVector(space=vector_space("vectors", space), vector=pack_vector(vector))
        for space, vector in (vectors or {}).items()
    ]


def _revision(revision: int | None) -> int:
    return check_uint("revision", revision, bits=64) or 0


def _photo(image: bytes | Path | None) -> bytes:
    return read_photo(image) if isinstance(image, Path) else image or b""
