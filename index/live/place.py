"""Where a product of a live shard is. Reads memory-mapped files."""

from __future__ import annotations

from typing import NamedTuple

from index.search.view import DocumentRef
from lookalike.v1.types_pb2 import Space
from lookalike.vectors import F32


class Place(NamedTuple):
    """Where a product is."""

    revision: int  # Its newest; 0: none is known.
    ref: DocumentRef | None  # None: there is no such product.
    on_disk: bool  # In a segment on disk, where a patch can leave it.

    def spaces(self) -> list[Space.ValueType]:
        """The spaces in which it has a vector."""
        ref = self.ref
        return [] if ref is None else [number for number, space in ref.segment.spaces.items() if space.has(ref.row)]

    def vectors(self) -> dict[Space.ValueType, F32]:
        return {
            number: vector for number in self.spaces() if self.ref and (vector := self.ref.vector(number)) is not None
        }
