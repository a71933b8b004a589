"""Our serving processes beside others: same vectors, same core, same client. One command, one table.

    python -m benchmarks.serving [--systems node,redis,mosec,…] [--documents 100000] [--recipe HNSW32,SQ8]

Every system is installed at a fixed version in an environment of its own under --cache, and built there once. Then
each in turn runs on --server-core and is called from --client-core, with queries that the index does not hold: at the
first value of its own knob that reaches --recall, in a closed loop with 1, 16 and 64 queries in flight, and in an open
loop of --rate queries a second, whose latency counts from when a query was due. CPU is that of all threads of all its
processes, from /proc. What cannot be installed here is left out, with the reason.

Load goes to 127.0.0.1, or to what --address names. Writes benchmarks/results/NAME.json and NAME.md.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import meter
from benchmarks.dataset import DIM, noisy
from benchmarks.neighbours import K, nearest
from benchmarks.serving import table
from benchmarks.serving.chroma import Chroma
from benchmarks.serving.faiss import Faiss
from benchmarks.serving.lookalike import Lookalike
from benchmarks.serving.measure import Settings, measure, prepare
from benchmarks.serving.milvus import Milvus
from benchmarks.serving.pgvector import Pgvector
from benchmarks.serving.qdrant import Qdrant
from benchmarks.serving.qdrant_edge import QdrantEdge
from benchmarks.serving.redis import Redis
from benchmarks.serving.system import QUERIES, TRUTH, VECTORS, Elsewhere, Embedded, LoadedServer, Server, Skipped
from benchmarks.serving.thin import Thin

REPOSITORY = Path(__file__).resolve().parents[2]
TRUE_QUERIES = 1_000  # With known neighbours: the standard error of a recall of .95 is a fifth of a percent.
LOAD_QUERIES = 4_096
LOADED: Mapping[str, Callable[[], LoadedServer]] = {
    "redis": Redis,
    "chroma": Chroma,
    "milvus": Milvus,
    "pgvector": Pgvector,
    "qdrant": Qdrant,
}
OURS = ("gateway", "gateway2", "node", "node-batch")
THIN = ("mosec", "grpc-sync", "grpc-aio")
DEFAULT = (*OURS, *THIN, "redis", "chroma", "milvus", "pgvector", "qdrant-edge", "faiss")


def main() -> None:
    options = _options()
    data = options.cache / f"noisy-{options.documents}"
    draw(data, options.documents)
    settings = Settings(
        data=data,
        environments=options.cache / "environments",
        recall=options.recall,
        seconds=options.seconds,
        rate=options.rate,
        server_core=options.server_core,
        client_core=options.client_core,
        environ={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )
    prepared: list[Server | Embedded] = []
    skipped: dict[str, str] = {}
    for system in chosen(options):
        print(f"preparing {system.name}", file=sys.stderr)
        try:
            prepare(system, settings)
            prepared.append(system)
        except Skipped as reason:
            skipped[system.name] = str(reason)
    rows: list[dict[str, Any]] = []
    for system in [] if options.prepare_only else prepared:
        print(f"measuring {system.name}", file=sys.stderr)
        try:
            rows.append(measure(system, settings))
        except Skipped as reason:
            skipped[system.name] = str(reason)
    result = {
        "vectors": f"{options.documents} x {DIM}, `noisy` of benchmarks/dataset.py, k={K}",
        "documents": options.documents,
        "least_recall": options.recall,
        "seconds": options.seconds,
        "rows": rows,
        "skipped": skipped,
    }
    report = table.report({**meter.measurement_context(), **result})
    print(report)
    if rows:
        meter.write(options.name, result, options.results).with_suffix(".md").write_text(report)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--systems", type=lambda text: text.split(","), default=DEFAULT, help=f"default: {','.join(DEFAULT)}"
    )
    parser.add_argument(
        "--recipe",
        action="append",
        help="how our index is built; several times: several rows (default: auto, HNSW32,SQ8)",
    )
    parser.add_argument(
        "--flags", action="append", help="flags of our node or gateway, in one argument; several times: several rows"
    )
    parser.add_argument(
        "--address",
        action="append",
        default=[],
        metavar="NAME=HOST:PORT",
        help=f"a server that you run: {','.join(LOADED)}",
    )
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--recall", type=float, default=0.95, help="least recall@10 (default: %(default)s)")
    parser.add_argument("--build-recall", type=float, default=0.95, help="that our index is built for")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rate", type=float, default=100, help="queries per second of the open loop")
    parser.add_argument("--server-core", type=int, default=min(os.sched_getaffinity(0)))
    parser.add_argument("--client-core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--cache", type=Path, default=REPOSITORY / ".cache" / "serving")
    parser.add_argument("--results", type=Path, default=meter.RESULTS, help="folder")
    parser.add_argument("--name", default="serving", help="of the result files")
    parser.add_argument("--prepare-only", action="store_true", help="install and build, measure nothing")
    options = parser.parse_args()
    options.recipe = options.recipe or ["auto", "HNSW32,SQ8"]
    options.flags = options.flags or [""]
    options.cache = options.cache.resolve()
    if unknown := set(options.systems) - {*DEFAULT, *LOADED}:
        parser.error(f"no such system: {', '.join(sorted(unknown))}")
    if unknown := {address.partition("=")[0] for address in options.address} - set(LOADED):
        parser.error(f"no such server: {', '.join(sorted(unknown))}")
    return options


def chosen(options: argparse.Namespace) -> Sequence[Server | Embedded]:
    systems: list[Server | Embedded] = []
    for name in options.systems:
        if name in OURS:
            systems += [
                _ours(name, recipe, flags, options.build_recall) for recipe in options.recipe for flags in options.flags
            ]
        elif name in THIN:
            systems.append(Thin(name))
        elif name == "faiss":
            systems += [Faiss("HNSW32,Flat"), Faiss("HNSW32,SQ8")]
        elif name == "qdrant-edge":
            systems.append(QdrantEdge())
        else:
            systems.append(LOADED[name]())
    for given in options.address:
        name, _, address = given.partition("=")
        systems.append(Elsewhere(LOADED[name](), address))
    return systems


def _ours(name: str, recipe: str, flags: str, recall: float) -> Lookalike:
    return Lookalike(
        kind="node" if name.startswith("node") else "gateway",
        recipe=recipe,
        recall=recall,
        shards=2 if name == "gateway2" else 1,
        batch=64 if name == "node-batch" else 1,
        flags=tuple(shlex.split(flags)),
    )


def draw(folder: Path, documents: int) -> None:
    """Write the vectors, the queries and their true neighbours, unless they are there."""
    if (folder / TRUTH).exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    vectors, queries = noisy(documents, LOAD_QUERIES)
    np.save(folder / VECTORS, vectors)
    np.save(folder / QUERIES, queries)
    np.save(folder / TRUTH, nearest(vectors, queries[:TRUE_QUERIES]))


if __name__ == "__main__":
    main()
