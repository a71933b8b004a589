"""The names of a shard's files on disk. Pure."""

from __future__ import annotations

ATTRIBUTES = "attributes.arrow"
VECTORS = "vectors.npy"
ROWS = "rows.npy"
ANN_INDEX = "codes"  # A faiss index file, or a directory of NGT files.
