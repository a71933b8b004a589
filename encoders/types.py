"""The result type of every encoder. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.vectors import F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Embeddings:
    """Vectors and the fingerprint of their encoder: a query is only compared with an index of the same encoder."""

    vectors: F32  # (n, dim), rows of unit L2 norm; a zero row where there was nothing to encode.
    encoder: str  # "mobilenet-…", "hybrid-…", "scdv-…"
