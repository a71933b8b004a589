"""What spaces, shards and their files are called on disk. Pure."""

from __future__ import annotations

from protos.lookalike.v1.types_pb2 import Space

ATTRIBUTES = "attributes.arrow"
VECTORS = "vectors.npy"
ROWS = "rows.npy"
CODES = "codes"  # A file of faiss, or a directory of NGT.


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"


def space_name(space: int) -> str:
    """The name on disk and on command lines: `image`, `text`, `product`."""
    return Space.Name(space).removeprefix("SPACE_").lower()  # type: ignore[arg-type]  # a proto enum value is an int


def number_of(name: str) -> Space.ValueType:
    """The proto's number of a space. Raises ValueError."""
    return Space.Value(f"SPACE_{name.upper()}")


# What a vector can be in: image, text, product.
SPACES = tuple(space_name(number) for number in Space.values() if number != Space.SPACE_AUTO)
