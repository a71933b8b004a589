"""A product as its shard has it. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lookalike.errors import NotFound
from lookalike.v1.index_pb2 import FetchedProduct
from lookalike.v1.types_pb2 import Product, Space
from lookalike.vectors import F32, unpack


@dataclass(frozen=True, slots=True)
class Stored:
    product: Product
    vectors: Mapping[Space.ValueType, bytes]  # float32 of unit norm, in each space that it has one in.

    @classmethod
    def of(cls, product_id: str, fetched: FetchedProduct) -> Stored:
        """Raises NotFound for a product that the catalogue lacks."""
        if not fetched.HasField("product"):
            raise NotFound(f"no product {product_id}")
        return cls(fetched.product, {each.space: each.vector for each in fetched.vectors})

    def vector(self, space: Space.ValueType, dim: int) -> F32 | None:
        """(dim,) float32, read-only; None where it has none in the space."""
        if (data := self.vectors.get(space)) is None:
            return None
        vector: F32 = unpack(data, dim)[0]
        return vector
