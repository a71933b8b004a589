"""A product as its shard stores it, with its vectors. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lookalike.errors import NotFound
from lookalike.v1.index_pb2 import FetchedProduct
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, unpack


@dataclass(frozen=True, slots=True)
class StoredProduct:
    serialized: bytes  # A Product without description.
    vectors: Mapping[Space.ValueType, bytes]  # float32 of unit norm; of the fetched spaces those in which it has one.

    @classmethod
    def from_fetched(cls, product_id: str, fetched: FetchedProduct) -> StoredProduct:
        """Raises NotFound where the catalogue has no such product."""
        if not fetched.HasField("product"):
            raise NotFound(f"no product {product_id}")
        return cls(fetched.product, {each.space: each.vector for each in fetched.vectors})

    def parse(self) -> Product:
        return Product.FromString(self.serialized)

    def vector(self, space: Space.ValueType, dim: int) -> F32 | None:
        """(dim,) float32, read-only; None where the product has no vector in the space."""
        if (data := self.vectors.get(space)) is None:
            return None
        vector: F32 = unpack(data, dim)[0]
        return vector
