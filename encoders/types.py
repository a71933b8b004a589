"""What every encoder answers. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lookalike.vectors import F32


@dataclass(frozen=True, slots=True, kw_only=True)
class Encoded:
    """Vectors and the fingerprint of what made them: a query vector only ever meets an index of the same encoder."""

    vectors: F32  # (n, dim), rows of unit L2 norm; a row of zeros where there was nothing to encode.
    encoder: str  # "mobilenet-…", "scdv-…", "fasttext-…"
