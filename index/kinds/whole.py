"""Every vector in half precision, each compared with each query: what a GPU does at once, and a CPU slowly."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from index.kinds import engine, formulas
from index.kinds.engine import faiss
from index.kinds.recipe import Halves
from index.kinds.seam import Codes
from index.storage.vectors import Stored
from lookalike.errors import BadArtifact
from lookalike.vectors import F32, I64


class Whole:
    """`Codes`; there is one search_parameter."""

    factors: tuple[int, ...] = (1, 2)

    def __init__(self, index: Any) -> None:
        self.index = index
        self.documents = int(index.ntotal)
        self.dim = int(index.d)

    def candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        found: I64 = self.index.search(queries, count)[1]
        return found

    def efforts(self, depth: int) -> Iterable[int]:
        return (1,)

    def cost(self, search_parameter: int) -> float:
        return formulas.cost(Halves(), self.documents, self.dim, search_parameter)

    def refilled(self, vectors: Stored) -> Codes:
        return made(vectors)

    def ram_bytes(self) -> int:
        return engine.size_bytes(self.index)

    def write(self, path: Path) -> None:
        engine.write(self.index, path)


def made(vectors: Stored) -> Whole:
    """Of unit vectors (m, dim), which may be a memory mapping; nothing is learnt."""
    index = faiss.IndexScalarQuantizer(vectors.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)
    for part in engine.chunks(vectors):
        index.add(part)
    return Whole(index)


def read(path: Path) -> Whole:
    """Raises BadArtifact."""
    index = engine.read(path)
    if not isinstance(index, faiss.IndexScalarQuantizer):
        raise BadArtifact(f"{path}: not vectors in half precision")
    return Whole(index)
