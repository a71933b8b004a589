"""This system: a gateway and its shards, or a node. Builds an index, starts processes."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbours import K
from benchmarks.serving.system import VECTORS, Environment, Searches, Site, free_address, load_array, port_of
from benchmarks.serving.wire import Grpc, WireError
from lookalike.vectors import F32, pack

_SERVICE = "/lookalike.v1.SimilarProducts"
# Set once, when the index is built: the index finds the settings of its recall itself.
_NO_KNOB: Sequence[int] = (0,)


@dataclass(frozen=True, kw_only=True)
class Lookalike:
    """A gateway with the cache off, and its shards, or both in one process.

    kind:    gateway, or node: gateway and shards in one process
    batch:   searches in a call: 1 by Search, more by BatchSearch
    flags:   more of the process that answers
    """

    kind: str
    recipe: str
    recall: float
    shards: int = 1
    batch: int = 1
    flags: tuple[str, ...] = ()
    environment: Environment | None = None
    knob: str = ""
    knob_values: Sequence[int] = _NO_KNOB

    @property
    def name(self) -> str:
        batched = f" BatchSearch of {self.batch}" if self.batch > 1 else ""
        shards = f", {self.shards} shards" if self.shards > 1 else ""
        return " ".join([f"{self.kind} {self.recipe}{batched}{shards}", *self.flags])

    @property
    def label(self) -> str:
        return f"Lookalike, {self.name}"

    @property
    def index(self) -> str:
        return f"lookalike-{self.recipe.replace(',', '-')}-{self.shards}-{self.recall}-{_builder_digest()}"

    def build(self, site: Site) -> None:
        command = site.module("lookalike", site.data, site.folder, self.recipe, self.shards, self.recall)
        site.run(f"build {self.index}", command)

    def start(self, site: Site) -> str:
        location = ["--location", str(site.folder / "index")]
        answers = ["--cache-ttl-s", "0", *self.flags]
        if self.kind == "node":
            return self._serve(site, "node", [*location, "--threads", "1", *answers])
        shards = [
            self._serve(site, f"shard {i}", [*location, "--shard", str(i), "--threads", "1"])
            for i in range(self.shards)
        ]
        return self._serve(site, "gateway", ["--shards", ",".join(shards), *answers])

    def _serve(self, site: Site, name: str, arguments: Sequence[str]) -> str:
        from lookalike.local.probes import is_serving

        address = free_address()
        command = [
            site.python,
            "-m",
            "lookalike",
            "serve",
            name.split(maxsplit=1)[0],
            "--port",
            port_of(address),
            *arguments,
        ]
        site.start(name, command, partial(is_serving, address))
        return address

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        from lookalike.v1.search_pb2 import BatchSearchRequest, BatchSearchResponse, SearchResponse

        requests = [_request(query) for query in queries]
        if self.batch == 1:
            return Searches(
                wire=Grpc(f"{_SERVICE}/Search"),
                requests=[request.SerializeToString() for request in requests],
                rows=lambda answer: [_rows(SearchResponse.FromString(answer))],
            )
        starts = range(0, len(requests) - self.batch + 1, self.batch)
        return Searches(
            wire=Grpc(f"{_SERVICE}/BatchSearch"),
            requests=[BatchSearchRequest(requests=requests[i : i + self.batch]).SerializeToString() for i in starts],
            rows=lambda answer: [_rows(each.response) for each in BatchSearchResponse.FromString(answer).results],
            queries_per_call=self.batch,
        )


@cache
def _builder_digest() -> str:
    """Of the code that builds indexes: another one may build others."""
    folder = Path(__file__).resolve().parents[2] / "index"
    files = sorted([*folder.glob("backends/*.py"), *folder.glob("building/*.py")])
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:8]


def _request(query: F32) -> Any:
    from lookalike.v1.search_pb2 import Example, SearchRequest
    from lookalike.v1.types_pb2 import SPACE_IMAGE

    return SearchRequest(examples=[Example(vector=pack(query))], space=SPACE_IMAGE, limit=K)


def _rows(response: Any) -> list[int]:
    if response.provenance.coverage < 1:
        raise WireError(f"partial: {response.provenance}")
    return [int(hit.product.id) for hit in response.hits]


def build_index(data: Path, folder: Path, recipe: str, shards: int, recall: float) -> None:
    import pyarrow as pa

    from index.building.build import IndexOptions, SpaceVectors, build
    from lookalike.v1.types_pb2 import SPACE_IMAGE

    vectors = load_array(data, VECTORS)
    products = pa.table({"id": [f"{row:06}" for row in range(len(vectors))]})
    space = SpaceVectors(encoder="benchmark", vectors=vectors, rows=np.arange(len(vectors)))
    options = IndexOptions(recipe=recipe, recall=recall)
    build(folder / "index", products, {SPACE_IMAGE: space}, shards=shards, options=options, threads=2)


if __name__ == "__main__":
    data, folder, recipe, shards, recall = sys.argv[1:]
    build_index(Path(data), Path(folder), recipe, int(shards), float(recall))
