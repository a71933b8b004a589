"""Merges the rows of one product's variants (sizes, colours) into one product. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from lookalike.product_rules import MAX_TAGS, CatalogueProduct

_FILLED = ("title", "description", "shop", "currency", "image", "url", "created_at")


def with_inherited_cells(record: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
    """A row with its empty cells filled from the first row of its group.

    Shops state a product's title, tags and status in the first of its rows only.
    """
    return {**first, **{column: cell for column, cell in record.items() if cell is not None and cell != ""}}


def merge_variants(
    earlier: CatalogueProduct, later: CatalogueProduct, *, with_photos: tuple[bool, bool]
) -> CatalogueProduct:
    """One product of two: the first with a photo, with what it lacks from the other.

    It has the tags of both, is in stock if either is, and has the lower price of those in its currency.
    with_photos: whether each has one.
    """
    winner, other = (later, earlier) if with_photos == (False, True) else (earlier, later)
    filled = {name: getattr(other, name) for name in _FILLED if not getattr(winner, name)}
    prices = [
        product.price
        for product in (winner, other)
        if product.price is not None and product.currency in ("", winner.currency or other.currency)
    ]
    added = [tag for tag in other.tags if tag not in winner.tags]
    return dataclasses.replace(
        winner,
        **filled,
        price=min(prices, default=None),
        in_stock=winner.in_stock or other.in_stock,
        tags=tuple(sorted([*winner.tags, *added][:MAX_TAGS])),
        expires_at=max(winner.expires_at, other.expires_at) if winner.expires_at and other.expires_at else 0,
        revision=max(winner.revision, other.revision),
    )
