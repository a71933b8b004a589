"""The products of a catalogue as they are built into a version, with the digests of their photos. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import pyarrow as pa

from lookalike.product_rules import FIELDS, CatalogueProduct
from pipeline.product_copies import CopiedProducts


@dataclass(slots=True)
class ReadCatalogue:
    """The valid products read so far, the line of each, and the digest of its photo (None: no photo)."""

    products: list[CatalogueProduct] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    photo_digests: list[str | None] = field(default_factory=list)

    def copied(self, seed: int) -> CopiedProducts:
        """The held-out products of which copies are made, to measure by them from which score products are the same."""
        return CopiedProducts(products=self.products, photo_digests=self.photo_digests, seed=seed)

    def table(self) -> pa.Table:
        return pa.table({name: [getattr(product, name) for product in self.products] for name in FIELDS})

    def digest(self, *others: object) -> str:
        """Of all products and photos, and of what else decides a version: 32 hexadecimal digits."""
        digest = blake2b(repr(others).encode(), digest_size=16)
        for product, photo in zip(self.products, self.photo_digests, strict=True):
            row: Sequence[object] = [getattr(product, name) for name in FIELDS]
            digest.update(repr((row, photo)).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()
