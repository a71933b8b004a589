"""Category paths as labels, from broad to narrow, and the groups of the same product that tags state. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

GROUP_TAG = "group:"  # Products with the same tag of this kind are offers, variants or duplicates of one product.


def levels(category: str) -> list[str]:
    """A category path and all its ancestors: "a/b" gives "a" and "a/b"."""
    parts = category.split("/")
    return ["/".join(parts[: i + 1]) for i in range(len(parts))]


def broadest(paths: Sequence[str]) -> list[str]:
    """The categories at the first level with more than one: if all are fashion, that level measures nothing."""
    levels_by_product = [levels(path) for path in paths]
    for depth in range(max(map(len, levels_by_product), default=0)):
        broad = [product_levels[min(depth, len(product_levels) - 1)] for product_levels in levels_by_product]
        if len(set(broad)) > 1:
            return broad
    return list(paths)


def group_of(tags: Iterable[str]) -> str:
    """The group that a product's tags state; empty: none."""
    return next((tag.removeprefix(GROUP_TAG) for tag in tags if tag.startswith(GROUP_TAG)), "")


def without_groups(tags: Iterable[str]) -> list[str]:
    """The tags that say what a product is like."""
    return [tag for tag in tags if not tag.startswith(GROUP_TAG)]
