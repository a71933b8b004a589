"""A graph with a tree over full vectors, by NGT: an optional extra, to compare with and to migrate from."""

from __future__ import annotations

import shutil
import weakref
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np

from index.kinds import engine
from index.storage.vectors import Stored
from lookalike.errors import BadArtifact, BadSettings
from lookalike.vectors import F32, I64

_EPSILONS = (0, 5, 10, 15, 20, 30, 40, 60)  # In hundredths.
_EDGES = 40  # Of a node that are looked at, NGT's own default; each may be a vector compared.


class TreeAndGraph:
    """`Codes`; the search_parameter is NGT's epsilon in hundredths: how much farther than the nearest so far it explores."""

    factors: tuple[int, ...] = (1, 2, 4)

    def __init__(self, index: Any, files: Path, dim: int) -> None:
        self._index = index
        self._files = files
        self.documents = int(index.get_num_of_objects())
        self.dim = dim

    def candidates(self, queries: F32, count: int, search_parameter: int) -> I64:
        found = np.full((len(queries), count), -1, dtype=np.int64)
        size = min(count, self.documents)
        for query, row in zip(queries, found, strict=True):
            near = self._index.search(query, size=size, epsilon=search_parameter / 100, with_distance=False)
            row[: len(near)] = near
        return found

    def efforts(self, depth: int) -> Iterable[int]:
        return _EPSILONS

    def cost(self, search_parameter: int) -> float:
        return _EDGES * 40 * (1 + search_parameter / 20)

    def refilled(self, vectors: Stored) -> TreeAndGraph:
        """Nothing was learnt but the graph itself, which is made anew."""
        return trained(vectors, 1)

    def ram_bytes(self) -> int:
        """The files are read whole; what NGT keeps beside them was not counted here."""
        return sum(file.stat().st_size for file in self._files.iterdir())

    def write(self, path: Path) -> None:
        shutil.copytree(self._files, path)


def read(path: Path, dim: int) -> TreeAndGraph:
    """Raises BadArtifact."""
    try:
        return TreeAndGraph(_ngt().Index(str(path), read_only=True, log_disabled=True), path, dim)
    except (RuntimeError, MemoryError) as error:  # The latter for a size that a damaged file states.
        raise BadArtifact(f"{path}: {error}") from error


def trained(vectors: Stored, threads: int) -> TreeAndGraph:
    """Of unit vectors (m, dim), which may be a memory mapping."""
    files = Path(mkdtemp(prefix="lookalike-ngt-"))
    library = _ngt()
    library.create(str(files), vectors.shape[1], distance_type="Normalized Cosine", object_type="Float")
    index = library.Index(str(files), log_disabled=True)
    for part in engine.chunks(vectors):
        index.batch_insert(part, num_threads=threads)
    index.save()
    made = TreeAndGraph(index, files, vectors.shape[1])
    weakref.finalize(made, shutil.rmtree, files, ignore_errors=True)
    return made


def _ngt() -> Any:
    try:
        return import_module("ngtpy")
    except ImportError as error:
        raise BadSettings(f"the recipe NGT needs the extra `ngt`: pip install 'lookalike[ngt]' ({error})") from error
