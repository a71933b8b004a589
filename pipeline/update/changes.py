"""What a catalogue changes in the version that serves: new, changed and removed products. Reads its files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from index.storage.attributes import Attributes, open_attributes
from index.storage.names import ATTRIBUTES
from lookalike.product_rules import CatalogueProduct
from lookalike.releases import version
from lookalike.releases.names import shard_name
from lookalike.runtime.partition import shard_of
from lookalike.v1.types_pb2 import Product
from pipeline.change_rows import product_message

EXAMPLES = 12  # Of each kind are named.


@dataclass(frozen=True, slots=True)
class ChangedProduct:
    """An example for a person. fields: what differs, empty for a product that is new or removed."""

    id: str
    title: str
    image: str = ""
    fields: tuple[str, ...] = ()


@dataclass(slots=True)
class Changes:
    """Counts and examples. live: the version that was compared with; empty: there was none, so all are new."""

    live: str = ""
    products: int = 0
    new: int = 0
    changed: int = 0
    removed: int = 0
    fields: Counter[str] = field(default_factory=Counter)  # Of changed products, by field.
    examples: dict[str, list[ChangedProduct]] = field(default_factory=lambda: {"new": [], "changed": [], "removed": []})

    def as_json(self) -> dict[str, Any]:
        return {
            "live": self.live,
            "products": self.products,
            "new": self.new,
            "changed": self.changed,
            "removed": self.removed,
            "fields": dict(self.fields.most_common()),
            "examples": {
                kind: [
                    {"id": each.id, "title": each.title, "image": each.image, "fields": list(each.fields)}
                    for each in examples
                ]
                for kind, examples in self.examples.items()
            },
        }

    def __str__(self) -> str:
        if not self.live:
            return f"{self.products:,} products, all new: there is no version to compare with"
        return (
            f"{self.products:,} products against version {self.live}: {self.new:,} new, {self.changed:,} changed, "
            f"{self.removed:,} removed"
        )


class LiveProducts:
    """The products of a version, mapped from its files."""

    def __init__(self, location: Path, name: str) -> None:
        """Raises BadArtifact."""
        manifest = version.read_manifest(location, name)
        self.name = name
        self._shards: list[Attributes] = [
            open_attributes(location / name / shard_name(shard) / ATTRIBUTES) for shard in range(manifest.shards)
        ]
        self._seen = [np.zeros(len(shard), dtype=bool) for shard in self._shards]

    def take(self, product_id: str) -> Product | None:
        """The product as it was built, which then does not count as removed; None: it is new."""
        shard = shard_of(product_id, len(self._shards))
        if (row := self._shards[shard].ids.find(product_id.encode())) is None:
            return None
        self._seen[shard][row] = True
        return self._product(shard, row)

    def removed(self) -> Iterable[Product]:
        """The products that were never taken, by shard and id."""
        for shard, seen in enumerate(self._seen):
            for row in np.flatnonzero(~seen).tolist():
                yield self._product(shard, row)

    def count_removed(self) -> int:
        return sum(int((~seen).sum()) for seen in self._seen)

    def _product(self, shard: int, row: int) -> Product:
        product = Product.FromString(self._shards[shard].products[row])
        product.description = self._shards[shard].description(row)
        return product


def compare(products: Iterable[CatalogueProduct], live: LiveProducts | None) -> Changes:
    """Compare every product with the version that serves. A greater revision alone is no change."""
    changes = Changes(live=live.name if live is not None else "")
    for product in products:
        changes.products += 1
        before = live.take(product.id) if live is not None else None
        if before is None:
            changes.new += 1
            _add(changes, "new", ChangedProduct(product.id, product.title, product.image))
        elif differing := _differing_fields(before, product_message(product)):
            changes.changed += 1
            changes.fields.update(differing)
            _add(changes, "changed", ChangedProduct(product.id, product.title, product.image, differing))
    if live is not None:
        changes.removed = live.count_removed()
        for gone, _ in zip(live.removed(), range(EXAMPLES), strict=False):
            _add(changes, "removed", ChangedProduct(gone.id, gone.title, gone.image))
    return changes


_FIELDS = tuple(field.name for field in Product.DESCRIPTOR.fields if field.name not in ("id", "revision"))


def _differing_fields(before: Product, after: Product) -> tuple[str, ...]:
    return tuple(name for name in _FIELDS if getattr(before, name) != getattr(after, name))


def _add(changes: Changes, kind: str, product: ChangedProduct) -> None:
    if len(changes.examples[kind]) < EXAMPLES:
        changes.examples[kind].append(product)
