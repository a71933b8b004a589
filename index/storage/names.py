"""What shards and their files are called on disk. Pure."""

from __future__ import annotations

ATTRIBUTES = "attributes.arrow"
VECTORS = "vectors.npy"
ROWS = "rows.npy"
CODES = "codes"  # A file of faiss, or a directory of NGT.


def shard_name(shard: int) -> str:
    return f"shard-{shard:05d}"
