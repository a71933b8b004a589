"""Milvus standalone, of the `milvus` wheel. `python -m benchmarks.serving.milvus load|encode …` in its environment."""

from __future__ import annotations

import os
import struct
import sys
import time
from collections.abc import Iterator, Sequence
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
    build_loaded,
    free_address,
    one_each,
    port_of,
)
from benchmarks.serving.wire import Grpc
from lookalike.vectors import F32

COLLECTION, FIELD = "products", "embedding"
BATCH = 2_000
INDEX_TIMEOUT_S = 1200

ENVIRONMENT = Environment(
    name="milvus",
    packages=("milvus==2.3.5", "pymilvus==2.3.5", "marshmallow==3.26.1", "setuptools==80.9.0", "numpy==1.26.4"),
)


@dataclass(frozen=True)
class Milvus:
    """HNSW over float32; the collection is loaded when the server has started."""

    name: str = "milvus"
    label: str = "Milvus 2.3.5 standalone, float32"
    environment: Environment | None = ENVIRONMENT
    index: str = "milvus"
    knob: str = "ef"
    knob_values: Sequence[int] = (32, 48, 56, 64, 80, 96, 112, 128, 160, 192, 256)

    def build(self, site: Site) -> None:
        build_loaded(self, site)

    def start(self, site: Site) -> str:
        address = free_address()
        command = site.module("milvus", "serve", site.folder / "data", port_of(address))
        site.start("milvus", command, partial(_is_ready, site, address))
        return address

    def load(self, site: Site, address: str) -> None:
        site.run("load milvus", site.module("milvus", "load", address, site.data / VECTORS))

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        file = site.folder / "requests"
        np.save(site.folder / "queries.npy", queries)
        site.run("encode", site.module("milvus", "encode", site.folder / "queries.npy", knob, file))
        return Searches(
            wire=Grpc("/milvus.proto.milvus.MilvusService/Search"),
            requests=list(_split(file.read_bytes())),
            rows=one_each(_ids),
        )


def _is_ready(site: Site, address: str) -> bool:
    """Whether the server answers and, where there is one, has loaded the collection."""
    from lookalike.errors import LookalikeError
    from lookalike.local.probes import accepts_connections

    if not accepts_connections(address):
        return False
    try:
        site.run("milvus state", site.module("milvus", "ready", address))
    except LookalikeError:
        return False
    return True


def _ids(answer: bytes) -> list[int]:
    """SearchResults.results (2) .ids (5) .int_id (1) .data (1): packed varints."""
    for number in (2, 5, 1, 1):
        answer = next(value for field, value in _fields(answer) if field == number and isinstance(value, bytes))
    ids, value, shift = [], 0, 0
    for byte in answer:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            ids.append(value)
            value, shift = 0, 0
    return ids


def _fields(message: bytes) -> Iterator[tuple[int, bytes | int]]:
    """The fields of a protobuf message: number and value."""
    position = 0
    while position < len(message):
        tag, position = _varint(message, position)
        match tag & 7:
            case 0:
                value, position = _varint(message, position)
                yield tag >> 3, value
            case 2:
                length, position = _varint(message, position)
                yield tag >> 3, message[position : position + length]
                position += length
            case kind:
                position += 8 if kind == 1 else 4


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7


def _split(data: bytes) -> Iterator[bytes]:
    position = 0
    while position < len(data):
        (length,) = struct.unpack_from("<I", data, position)
        yield data[position + 4 : position + 4 + length]
        position += 4 + length


def serve(folder: Path, port: int) -> None:
    """Become the server. The wheel's `milvus-server` stays its parent, and does not wait for it when told to stop."""
    import milvus

    server = milvus.MilvusServer()
    server.set_base_dir(str(folder))
    server.config.configs["proxy_port"] = port
    server.config.resolve()
    milvus._initialize_data_files(server.config.base_data_dir)
    binary = Path(server.get_milvus_executable_path())
    metrics_port, reserved = server.config.resolve_port(server.webservice_port)
    reserved.close()
    os.chdir(folder)
    environ = {
        **os.environ,  # noqa: TID251  # handed on
        "DEPLOY_MODE": "STANDALONE",
        "METRICS_PORT": str(metrics_port),
        "MILVUS_RUN_DIR": str(folder / "run"),
        "LD_LIBRARY_PATH": str(binary.parent),
    }
    os.execve(binary, [str(binary), "run", "standalone"], environ)  # noqa: S606  # no shell


def connect(address: str) -> Any:
    import pymilvus

    host, _, port = address.rpartition(":")
    pymilvus.connections.connect(host=host, port=port, timeout=10)
    return pymilvus


def wait_ready(address: str) -> None:
    """Ask for the collections, and load the one that there is."""
    m = connect(address)
    if m.utility.has_collection(COLLECTION, timeout=10):
        m.Collection(COLLECTION).load(timeout=120)


def load(address: str, vectors: Path) -> None:
    m = connect(address)
    array = np.load(vectors, mmap_mode="r")
    fields = [
        m.FieldSchema("id", m.DataType.INT64, is_primary=True),
        m.FieldSchema(FIELD, m.DataType.FLOAT_VECTOR, dim=array.shape[1]),
    ]
    collection = m.Collection(COLLECTION, m.CollectionSchema(fields))
    for start in range(0, len(array), BATCH):
        chunk = array[start : start + BATCH]
        collection.insert([list(range(start, start + len(chunk))), list(np.array(chunk))])
    collection.flush()
    params = {"M": LINKS, "efConstruction": EF_CONSTRUCTION}
    collection.create_index(FIELD, {"index_type": "HNSW", "metric_type": "IP", "params": params})
    m.utility.wait_for_index_building_complete(COLLECTION, timeout=INDEX_TIMEOUT_S)
    _wait_compacted(collection, len(array))
    collection.load()


def _wait_compacted(collection: Any, count: int) -> None:
    """Merge the segments, as the server would do by itself after some minutes, and wait until the result is indexed."""
    import pymilvus

    collection.compact()
    collection.wait_for_compaction_completed(timeout=INDEX_TIMEOUT_S)
    deadline_s = time.monotonic() + INDEX_TIMEOUT_S
    while True:
        progress = pymilvus.utility.index_building_progress(collection.name)
        if progress["indexed_rows"] >= count and not progress.get("pending_index_rows"):
            return
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not indexed: {progress}")
        time.sleep(1)


def encode(queries: Path, ef: int, out: Path) -> None:
    """Write the messages that pymilvus would send, each after its length."""
    from pymilvus.client.prepare import Prepare

    param = {"metric_type": "IP", "params": {"ef": ef}}
    with out.open("wb") as file:
        for query in np.load(queries):
            message = Prepare.search_requests_with_expr(
                COLLECTION, [query], FIELD, param, K, consistency_level="Bounded"
            )
            data = message.SerializeToString()
            file.write(struct.pack("<I", len(data)) + data)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["serve", folder, port]:
            serve(Path(folder), int(port))
        case ["ready", address]:
            wait_ready(address)
        case ["load", address, vectors]:
            load(address, Path(vectors))
        case ["encode", queries, ef, out]:
            encode(Path(queries), int(ef), Path(out))
