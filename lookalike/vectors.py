"""Vectors on the wire: packed little-endian float32. Pure."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

F32 = npt.NDArray[np.float32]
I64 = npt.NDArray[np.int64]


def pack(vectors: F32) -> bytes:
    """Rows as the bytes of the wire, one copy. Any shape."""
    return vectors.astype("<f4", copy=False).tobytes()


def unpack(data: bytes, dim: int) -> F32:
    """Read-only view of (n, dim) float32, no copy. Raises ValueError unless they are whole vectors."""
    if len(data) % (4 * dim):
        raise ValueError(f"{len(data)} bytes are no float32 vectors of {dim} dimensions ({4 * dim} bytes each)")
    return np.frombuffer(data, dtype="<f4").reshape(-1, dim)


def normalised(vectors: F32) -> F32:
    """Rows scaled to unit L2 norm, (n, dim) float32; rows of zeros stay zeros.

    Norms are taken in float64 after scaling by the largest component: features of an untrained network have norms
    around 1e-18, which an epsilon, or float32 squares, would turn into zeros.
    """
    peak = np.abs(vectors).max(axis=1, keepdims=True, initial=0)
    scaled = np.divide(vectors, peak, out=np.zeros_like(vectors, dtype=np.float64), where=peak > 0)
    norms = np.linalg.norm(scaled, axis=1, keepdims=True)
    unit: F32 = np.divide(scaled, norms, out=scaled, where=norms > 0).astype(np.float32)
    return unit
