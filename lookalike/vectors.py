"""Vectors as arrays and as the bytes of messages: packed little-endian float32. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def pack(vectors: F32) -> bytes:
    """The bytes of an array of any shape, row by row, as little-endian float32. Copies once."""
    return vectors.astype("<f4", copy=False).tobytes()


def unpack(data: bytes, dim: int) -> F32:
    """Packed vectors as a read-only (n, dim) float32 view, without a copy. Raises ValueError for a partial vector."""
    if len(data) % (4 * dim):
        raise ValueError(
            f"{len(data)} bytes are not a multiple of {4 * dim}, the size of a float32 vector of {dim} dimensions"
        )
    return np.frombuffer(data, dtype="<f4").reshape(-1, dim)


def normalised(vectors: F32) -> F32:
    """Scale rows to unit L2 norm: (n, dim) float32; rows of zeros stay zeros.

    Norms are taken in float64 after scaling by the largest component: features of an untrained network have norms
    around 1e-18, which an epsilon, or float32 squares, would turn into zeros.
    """
    peak = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(vectors, peak, out=np.zeros_like(vectors, dtype=np.float64), where=peak > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: F32 = np.divide(scaled, norms, out=scaled, where=norms > 0).astype(np.float32)
    return unit
