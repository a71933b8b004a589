"""Start-up time, memory and CPU per query of a shard of many vectors: real processes over real indexes.

Builds indexes of random vectors (`benchmarks/dataset.py`) in FOLDER, unless they exist, and one of 1,000 vectors beside
them. Starts `lookalike serve shard` over each in turn, with the files evicted from the page cache and then with them
cached, `--rounds` times: seconds until it answers, and CPU seconds. Then searches for 1,000 queries. Memory is RssAnon,
which the kernel counts as the process's own (mapped files are not in it), minus that of the shard of 1,000 vectors. CPU
per query is the process's, in batches of 16, with gRPC. Recall is that of the build, of queries that are not indexed.

    python -m benchmarks.shard_start FOLDER [--count 1000000] [--index PCAR128,IVF,RaBitQ@0.9 …] [--rounds 3]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import COMMAND, cpu_s, write
from lookalike.channels import blocking_channel
from lookalike.local.probes import free_ports, is_serving
from lookalike.releases import version
from lookalike.v1.index_pb2 import QueryVector, ShardQuery, ShardSearchRequest
from lookalike.v1.index_pb2_grpc import IndexShardStub
from lookalike.v1.types_pb2 import SPACE_IMAGE
from lookalike.vectors import F32, pack

# The least memory for a recall of .90 and .95, and the recipes that are faster or had been the smallest.
INDEXES = (
    "PCAR96,IVF,RaBitQ@0.9",
    "PCAR128,IVF,RaBitQ@0.9",
    "PCAR128,IVF,RaBitQ@0.95",
    "PCAR256,IVF,RaBitQfs@0.95",
)
SMALL_COUNT = 1_000
K, BATCH = 10, 16
READY_TIMEOUT_S = 600


class StartMeasurement(NamedTuple):
    ready_s: float
    cpu_s: float
    query_cpu_s: float
    own_bytes: int  # After the queries.


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=1_000_000)
    parser.add_argument("--index", nargs="+", default=INDEXES, metavar="RECIPE@RECALL")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    queries = CnnLike().queries(1_000)
    small = build_index(options.folder, SMALL_COUNT)
    large = {name: build_index(options.folder, options.count, name) for name in options.index}
    baseline = measure_start(small, queries)
    cold: dict[str, list[StartMeasurement]] = {name: [] for name in large}
    warm: dict[str, list[StartMeasurement]] = {name: [] for name in large}
    for _ in range(options.rounds):
        for name, location in large.items():
            evict_from_page_cache(location)
            cold[name].append(measure_start(location, queries))
            warm[name].append(measure_start(location, queries))
    print(
        write(
            "shard_start",
            {
                "vectors": f"{options.count} x {DIM}, like those of a CNN, kept as float16",
                "own_mb_with_1000_vectors": baseline.own_bytes // 10**6,
                "indexes": {
                    name: _row(location, options.count, cold[name], warm[name], baseline)
                    for name, location in large.items()
                },
                "caveats": "a shared machine and disk; ready: files verified, mapped, codes read, 64 queries searched",
            },
        )
    )


def _row(
    location: Path,
    count: int,
    cold: list[StartMeasurement],
    warm: list[StartMeasurement],
    baseline: StartMeasurement,
) -> dict[str, Any]:
    manifest = version.read_manifest(location, version.read_current(location))
    (entry,) = manifest.spaces[0].indexes
    point = entry.operating_points[0]
    own_bytes = float(np.median([each.own_bytes for each in (*cold, *warm)]))
    return {
        "recipe": entry.recipe,
        "recall_at_10": entry.recall_at_10,
        "nprobe": point.search_parameter,
        "rescored": K * point.refine_factor,
        "files_gb": round(sum(file.bytes for file in manifest.files.values()) / 1e9, 3),
        "ready_s": {"out of the page cache": _median(cold, "ready_s"), "in it": _median(warm, "ready_s")},
        "cpu_s": {"out of the page cache": _median(cold, "cpu_s"), "in it": _median(warm, "cpu_s")},
        "query_cpu_us": round(float(np.median([each.query_cpu_s for each in warm])) * 1e6),
        "own_bytes_per_vector": round((own_bytes - baseline.own_bytes) / (count - SMALL_COUNT), 1),
        "own_mb": round(own_bytes / 1e6, 1),
    }


def build_index(folder: Path, count: int, index: str = "") -> Path:
    """Build an index with the command line, unless it exists. index: recipe@recall; empty: for few vectors."""
    recipe, _, target = index.partition("@")
    location, vectors = folder / "-".join(filter(None, ("index", str(count), recipe, target))), folder / "vectors.npy"
    if not (location / version.CURRENT).exists():
        folder.mkdir(parents=True, exist_ok=True)
        drawn = np.lib.format.open_memmap(vectors, mode="w+", dtype="<f4", shape=(count, DIM))
        at = 0
        for piece in CnnLike().vectors(count):
            drawn[at : at + len(piece)] = piece
            at += len(piece)
        drawn.flush()
        options = ["--recipe", recipe, "--recall", target, "--rescore", "float16"] if recipe else []
        build = ["index", "build", "--vectors", str(vectors), "--space", "image", *options, str(location)]
        subprocess.run([*COMMAND, *build], check=True)  # noqa: S603  # our own command
        vectors.unlink()
    return location


def evict_from_page_cache(location: Path) -> None:
    """Evict the files from the page cache."""
    for path in location.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure_start(location: Path, queries: F32) -> StartMeasurement:
    """Start a shard with one search thread, search for all queries, and stop it."""
    (port,) = free_ports(1)
    with _process(location, port) as pid:
        began_s = time.monotonic()
        while not is_serving(f"127.0.0.1:{port}"):
            if time.monotonic() - began_s > READY_TIMEOUT_S:
                raise RuntimeError(f"the shard of {location} is not ready after {READY_TIMEOUT_S} s")
            time.sleep(0.02)
        ready_s, used_s = time.monotonic() - began_s, cpu_s(pid)
        _search(f"127.0.0.1:{port}", version.read_current(location), queries)
        query_cpu_s = cpu_s(pid) - used_s
        return StartMeasurement(ready_s, used_s, query_cpu_s / len(queries), _own_bytes(pid))


@contextmanager
def _process(location: Path, port: int) -> Iterator[int]:
    shard = ["serve", "shard", "--location", str(location), "--shard", "0", "--port", str(port), "--threads", "1"]
    process = subprocess.Popen([*COMMAND, *shard])  # noqa: S603  # our own command
    try:
        yield process.pid
    finally:
        process.terminate()
        process.wait()


def _search(address: str, name: str, queries: F32) -> None:
    with blocking_channel(address) as channel:
        stub = IndexShardStub(channel)
        for start in range(0, len(queries), BATCH):
            shard_queries = [
                ShardQuery(vectors=[QueryVector(space=SPACE_IMAGE, vector=pack(query))], k=K)
                for query in queries[start : start + BATCH]
            ]
            stub.Search(ShardSearchRequest(version=name, queries=shard_queries), timeout=60)


def _own_bytes(pid: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) << 10


def _median(rounds: list[StartMeasurement], figure: str) -> float:
    return round(float(np.median([getattr(each, figure) for each in rounds])), 2)


if __name__ == "__main__":
    main()
