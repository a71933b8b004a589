"""Qdrant's engine in process (qdrant-edge), int8. `python -m benchmarks.serving.qdrant_edge build|measure …`"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbours import K
from benchmarks.serving.system import EF_CONSTRUCTION, LINKS, VECTORS, Environment, Site, load_array
from lookalike.vectors import F32

BATCH = 2_000
EF = (32, 48, 64, 80, 96, 128, 160, 192, 256)
OVERSAMPLING = 3.0

ENVIRONMENT = Environment(name="qdrant-edge", packages=("qdrant-edge-py==0.9.0", "numpy==2.4.6"))


@dataclass(frozen=True)
class QdrantEdge:
    """HNSW over int8, three times as many candidates rescored with the full vectors: its guide's advice."""

    name: str = "qdrant-edge"
    label: str = "Qdrant's engine in process (edge 0.9.0), int8, rescored"
    environment: Environment | None = ENVIRONMENT
    index: str = "qdrant-edge"
    knob: str = "hnsw_ef"
    knob_values: Sequence[int] = EF

    def build(self, site: Site) -> None:
        site.run("build qdrant-edge", site.module("qdrant_edge", "build", "--data", site.data, "--folder", site.folder))

    def command(self, site: Site) -> list[str]:
        return site.module("qdrant_edge", "measure", "--data", site.data, "--folder", site.folder)


def build_shard(data: Path, folder: Path) -> None:
    import qdrant_edge as q

    vectors = load_array(data, VECTORS)
    config = q.EdgeConfig(
        vectors=q.EdgeVectorParams(
            size=vectors.shape[1],
            distance=q.Distance.Cosine,
            hnsw_config=q.HnswIndexConfig(m=LINKS, ef_construct=EF_CONSTRUCTION, full_scan_threshold=10),
            quantization_config=q.ScalarQuantizationConfig(type=q.ScalarType.Int8, quantile=0.99),
        ),
        optimizers=q.EdgeOptimizersConfig(default_segment_number=1, indexing_threshold=10),
    )
    path = folder / "shard"
    path.mkdir()
    shard = q.EdgeShard.create(str(path), config)
    for start in range(0, len(vectors), BATCH):
        chunk = vectors[start : start + BATCH]
        points = [q.Point(start + i, vector.tolist(), None) for i, vector in enumerate(chunk)]
        shard.update(q.UpdateOperation.upsert_points(points))
    shard.optimize()
    shard.flush()
    print(shard.info())
    shard.close()


def open_search(folder: Path) -> Any:
    import qdrant_edge as q

    shard = q.EdgeShard.load(str(folder / "shard"))

    def search(queries: F32, knob: int) -> list[list[int]]:
        quantization = q.QuantizationSearchParams(rescore=True, oversampling=OVERSAMPLING)
        params = q.SearchParams(hnsw_ef=knob, quantization=quantization)
        requests = [q.QueryRequest(K, query=q.Query.Nearest(query), params=params) for query in queries.tolist()]
        answers = [shard.query(requests[0])] if len(requests) == 1 else shard.query_batch(q.QueryBatchRequest(requests))
        return [[int(point.id) for point in answer] for answer in answers]

    return search


def main() -> None:
    from benchmarks.serving import embedded

    options = embedded.options()
    if options.verb == "build":
        build_shard(options.data, options.folder)
    else:
        np.seterr(all="raise")
        embedded.measure(open_search(options.folder), EF, options)


if __name__ == "__main__":
    main()
