"""The names of shards and their files on disk. Pure."""

from __future__ import annotations

ATTRIBUTES = "attributes.arrow"
VECTORS = "vectors.npy"
ROWS = "rows.npy"
CODES = "codes"  # The vector index: a file of faiss, or a directory of NGT.


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"
