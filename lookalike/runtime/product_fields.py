"""Bring the product of a request to the form that is stored, by the rules for a product. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from lookalike.errors import InvalidRequest
from lookalike.limits import MAX_ID_BYTES
from lookalike.product_rules import FIELDS, BadField, parse_field
from lookalike.v1.types_pb2 import Product

STORED_FIELDS = frozenset(FIELDS) - {"revision"}  # A product's revision is that of its change.
PATCHABLE_FIELDS = STORED_FIELDS - {"id"}


def normalise_product(product: Product, fields: Collection[str] = STORED_FIELDS) -> list[str]:
    """Normalise these fields of the product in place; the others are cleared. Returns what its owner should know of.

    Raises InvalidRequest naming the first invalid field.
    """
    notices: list[str] = []
    for field in FIELDS:
        if field not in fields:
            product.ClearField(field)  # type: ignore[arg-type]  # a field of Product
            continue
        given = field not in _OPTIONAL or product.HasField(field)  # type: ignore[arg-type]  # optional
        try:
            value = parse_field(field, getattr(product, field) if given else None, notices)
        except BadField as bad:
            raise InvalidRequest(f"product.{field}", bad.detail) from None
        if field == "tags":
            product.tags[:] = value
        elif value is None:
            product.ClearField(field)  # type: ignore[arg-type]
        else:
            setattr(product, field, value)
    return notices


def check_product_id(field: str, product_id: str) -> None:
    """The id has 1..256 bytes of UTF-8. Raises InvalidRequest."""
    if not 1 <= len(product_id.encode()) <= MAX_ID_BYTES:
        raise InvalidRequest(field, f"has {len(product_id.encode())} bytes, a product id has 1..{MAX_ID_BYTES}")


def check_update_mask(paths: Iterable[str]) -> list[str]:
    """The fields that a patch names, each once. Raises InvalidRequest for one that cannot be patched."""
    fields = [*dict.fromkeys(paths)]
    for field in fields:
        if field not in PATCHABLE_FIELDS:
            raise InvalidRequest("update_mask", f"{field!r} is not one of {', '.join(sorted(PATCHABLE_FIELDS))}")
    return fields


_OPTIONAL = ("price", "in_stock")
