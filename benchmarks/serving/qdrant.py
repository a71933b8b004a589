"""Qdrant, a server that the reader runs. `python -m benchmarks.serving.qdrant VECTORS HOST:PORT` loads it."""

from __future__ import annotations

import json
import sys
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbours import K
from benchmarks.serving.system import EF_CONSTRUCTION, LINKS, VECTORS, Environment, Searches, Site, Skipped, one_each
from benchmarks.serving.wire import OneAtATime, http_answer_length
from lookalike.vectors import F32

COLLECTION = "/collections/products"
BATCH = 500
INDEX_TIMEOUT_S = 1200
OVERSAMPLING = 3.0


@dataclass(frozen=True)
class Qdrant:
    """Its REST API (port 6333), HNSW over int8, rescored with full vectors."""

    name: str = "qdrant"
    label: str = "Qdrant, int8, rescored"
    environment: Environment | None = None
    index: str = "qdrant"
    knob: str = "hnsw_ef"
    knob_values: Sequence[int] = (32, 48, 64, 80, 96, 128, 160, 192, 256)

    def build(self, site: Site) -> None:
        raise Skipped("PyPI has no package of its server: run one, and give --address qdrant=127.0.0.1:6333")

    def start(self, site: Site) -> str:
        raise Skipped("only by --address")

    def load(self, site: Site, address: str) -> None:
        site.run("load qdrant", site.module("qdrant", site.data / VECTORS, address))

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        head = f"POST {COLLECTION}/points/query HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\n"
        return Searches(
            wire=OneAtATime(http_answer_length),
            requests=[_post(head, query, knob) for query in queries],
            rows=one_each(_ids),
        )


def _post(head: str, query: F32, ef: int) -> bytes:
    quantization = {"rescore": True, "oversampling": OVERSAMPLING}
    body = json.dumps({"query": query.tolist(), "limit": K, "params": {"hnsw_ef": ef, "quantization": quantization}})
    return f"{head}Content-Length: {len(body)}\r\n\r\n{body}".encode()


def _ids(answer: bytes) -> list[int]:
    return [point["id"] for point in json.loads(answer.partition(b"\r\n\r\n")[2])["result"]["points"]]


def ask(method: str, address: str, path: str, body: Any = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(  # the reader's own server
        f"http://{address}{path}", data, {"Content-Type": "application/json"}, method=method
    )
    with urllib.request.urlopen(request, timeout=60) as response:  # noqa: S310
        return json.load(response)["result"]


def load(vectors: Path, address: str) -> None:
    array = np.load(vectors, mmap_mode="r")
    collection = {
        "vectors": {"size": array.shape[1], "distance": "Cosine"},
        "hnsw_config": {"m": LINKS, "ef_construct": EF_CONSTRUCTION},
        "quantization_config": {"scalar": {"type": "int8", "quantile": 0.99, "always_ram": True}},
        "optimizers_config": {"default_segment_number": 1},
    }
    ask("PUT", address, COLLECTION, collection)
    for start in range(0, len(array), BATCH):
        points = [{"id": start + i, "vector": v.tolist()} for i, v in enumerate(array[start : start + BATCH])]
        ask("PUT", address, f"{COLLECTION}/points?wait=true", {"points": points})
    deadline_s = time.monotonic() + INDEX_TIMEOUT_S
    while True:
        state = ask("GET", address, COLLECTION)
        if state["status"] == "green" and state["indexed_vectors_count"] >= len(array):
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not indexed: {state}")
        time.sleep(1)


if __name__ == "__main__":
    load(Path(sys.argv[1]), sys.argv[2])
