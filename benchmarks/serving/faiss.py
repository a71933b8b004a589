"""Bare FAISS, in process. Runs in this project's environment, or in one that has faiss.

python -m benchmarks.serving.faiss build|measure --data FOLDER --folder FOLDER --factory HNSW32,SQ8
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbours import K
from benchmarks.serving.system import VECTORS, Environment, Site, load_array
from lookalike.vectors import F32

INDEX = "index.faiss"
EF_SEARCH = (16, 24, 32, 40, 48, 56, 64, 72, 80, 96, 112, 128, 160, 192, 256, 384, 512)


@dataclass(frozen=True)
class Faiss:
    """One index of a factory string, efSearch its knob."""

    factory: str
    environment: Environment | None = None
    knob: str = "efSearch"
    knob_values: Sequence[int] = EF_SEARCH

    @property
    def name(self) -> str:
        return f"faiss {self.factory}"

    @property
    def label(self) -> str:
        return f"bare FAISS in process, {self.factory}, one thread"

    @property
    def index(self) -> str:
        return index_folder(self.factory)

    def build(self, site: Site) -> None:
        build(site, self.factory)

    def command(self, site: Site) -> list[str]:
        return site.module("faiss", "measure", "--data", site.data, "--folder", site.folder, "--factory", self.factory)


def index_folder(factory: str) -> str:
    return f"faiss-{factory.replace(',', '-')}"


def build(site: Site, factory: str) -> None:
    """Build an index of the data set in the site's folder, in a process of its own."""
    site.run(
        f"build {factory}",
        site.module("faiss", "build", "--data", site.data, "--folder", site.folder, "--factory", factory),
    )


def build_index(data: Path, folder: Path, factory: str) -> None:
    faiss: Any = import_module("faiss")

    vectors = np.array(load_array(data, VECTORS))
    index: Any = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    index.train(vectors)
    index.add(vectors)
    faiss.write_index(index, str(folder / INDEX))


def open_search(folder: Path) -> Any:
    faiss: Any = import_module("faiss")

    faiss.omp_set_num_threads(1)
    index = faiss.read_index(str(folder / INDEX))

    def search(queries: F32, knob: int) -> Any:
        return index.search(queries, K, params=faiss.SearchParametersHNSW(efSearch=knob))[1]

    return search


def main() -> None:
    from benchmarks.serving import embedded

    options = embedded.options()
    if options.verb == "build":
        build_index(options.data, options.folder, options.factory)
    else:
        embedded.measure(open_search(options.folder), EF_SEARCH, options)


if __name__ == "__main__":
    main()
