"""Chroma's own server. `python -m benchmarks.serving.chroma load VECTORS HOST:PORT`, or `ef`, sets it up."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.neighbours import K
from benchmarks.serving.system import (
    EF_CONSTRUCTION,
    LINKS,
    VECTORS,
    Environment,
    Searches,
    Site,
    answers_http,
    build_loaded,
    free_address,
    one_each,
    port_of,
)
from benchmarks.serving.wire import OneAtATime, http_answer_length
from lookalike.vectors import F32

COLLECTION = "products"
BATCH = 2_000

ENVIRONMENT = Environment(name="chroma", packages=("chromadb==1.5.9",))


@dataclass(frozen=True)
class Chroma:
    """`chroma run`, HTTP with JSON; its HNSW over float32."""

    name: str = "chroma"
    label: str = "Chroma 1.5.9, float32"
    environment: Environment | None = ENVIRONMENT
    index: str = "chroma"
    knob: str = "ef_search"
    knob_values: Sequence[int] = (48, 64, 80, 96, 128, 160, 192, 256)

    def build(self, site: Site) -> None:
        build_loaded(self, site)

    def start(self, site: Site) -> str:
        address = free_address()
        command = [site.executable("chroma"), "run", "--path", str(site.folder / "data"), "--port", port_of(address)]
        site.start(
            "chroma", [*command, "--host", "127.0.0.1"], partial(answers_http, f"http://{address}/api/v2/heartbeat")
        )
        return address

    def load(self, site: Site, address: str) -> None:
        site.run("load chroma", site.module("chroma", "load", address, site.data / VECTORS))

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        collection = site.run("chroma ef_search", site.module("chroma", "ef", address, knob)).strip()
        path = f"/api/v2/tenants/default_tenant/databases/default_database/collections/{collection}/query"
        head = f"POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Type: application/json\r\nContent-Length: "
        return Searches(
            wire=OneAtATime(http_answer_length),
            requests=[_post(head, query) for query in queries],
            rows=one_each(
                lambda answer: [int(name) for name in json.loads(answer.partition(b"\r\n\r\n")[2])["ids"][0]]
            ),
        )


def _post(head: str, query: F32) -> bytes:
    # Nine significant digits give back every float32.
    numbers = ",".join(f"{number:.9g}" for number in query.tolist())
    body = f'{{"query_embeddings":[[{numbers}]],"n_results":{K},"include":[]}}'
    return f"{head}{len(body)}\r\n\r\n{body}".encode()


def collection_at(address: str, *, create: bool) -> Any:
    import chromadb

    host, _, port = address.rpartition(":")
    client = chromadb.HttpClient(host=host, port=int(port))
    if not create:
        return client.get_collection(COLLECTION, embedding_function=None)
    hnsw = {"space": "cosine", "max_neighbors": LINKS, "ef_construction": EF_CONSTRUCTION}
    return client.create_collection(COLLECTION, configuration={"hnsw": hnsw}, embedding_function=None)


def load(address: str, vectors: Path) -> None:
    collection = collection_at(address, create=True)
    array = np.load(vectors, mmap_mode="r")
    for start in range(0, len(array), BATCH):
        chunk = array[start : start + BATCH]
        collection.add(ids=[str(start + i) for i in range(len(chunk))], embeddings=chunk)
    if collection.count() != len(array):
        raise RuntimeError(f"{collection.count()} of {len(array)} vectors")


def set_ef_search(address: str, ef: int) -> None:
    """Print the collection's id."""
    collection = collection_at(address, create=False)
    collection.modify(configuration={"hnsw": {"ef_search": ef}})
    print(collection.id)


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(sys.argv[2], Path(sys.argv[3]))
    else:
        set_ef_search(sys.argv[2], int(sys.argv[3]))
