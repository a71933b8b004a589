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
    product: Product
    vectors: Mapping[Space.ValueType, bytes]  # float32 of unit norm; only the spaces in which it has a vector.

    @classmethod
    def from_fetched(cls, product_id: str, fetched: FetchedProduct) -> StoredProduct:
        """Raises NotFound where the catalogue has no such product."""
        if not fetched.HasField("product"):
            raise NotFound(f"no product {product_id}")
        return cls(fetched.product, {each.space: each.vector for each in fetched.vectors})

    def vector(self, space: Space.ValueType, dim: int) -> F32 | None:
        """(dim,) float32, read-only; None where the product has no vector in the space."""
        if (data := self.vectors.get(space)) is None:
            return None
        vector: F32 = unpack(data, dim)[0]
        return vector
