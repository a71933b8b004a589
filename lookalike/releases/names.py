"""The names of the parts of a version: directories that processes fetch and verify by themselves. Pure."""

from __future__ import annotations

ENCODERS = "encoders"  # encoders/text/ and encoders/product/: the artifacts of the encoders of these spaces.


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"
