"""The least that serves FAISS: one index behind mosec, or behind gRPC in Python. Starts processes."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.serving import faiss
from benchmarks.serving.system import (
    Environment,
    Searches,
    Site,
    accepts,
    answers_http,
    free_address,
    one_each,
    port_of,
)
from benchmarks.serving.wire import Grpc, OneAtATime, http_answer_length
from lookalike.vectors import F32, pack

METHOD = "/serving.Thin/Search"
ENVIRONMENT = Environment(name="thin", packages=("mosec==0.9.8", "grpcio==1.85.1", "faiss-cpu==1.15.1", "numpy==2.4.6"))


@dataclass(frozen=True)
class Thin:
    """A server of ours that does nothing else: `thin_server.py`. edge: mosec, grpc-sync or grpc-aio."""

    edge: str
    environment: Environment | None = ENVIRONMENT
    index: str = faiss.index_folder("HNSW32,Flat")
    knob: str = "efSearch"
    knob_values: Sequence[int] = faiss.EF_SEARCH

    @property
    def name(self) -> str:
        return self.edge

    @property
    def label(self) -> str:
        edge = {"mosec": "mosec 0.9.8", "grpc-sync": "grpc.server, 4 threads", "grpc-aio": "grpc.aio"}[self.edge]
        return f"thin server: {edge}, FAISS HNSW32 float32"

    def build(self, site: Site) -> None:
        faiss.build(site, "HNSW32,Flat")

    def start(self, site: Site) -> str:
        address = free_address()
        ready = partial(answers_http, f"http://{address}/") if self.edge == "mosec" else accepts(address)
        site.start(self.edge, site.module("thin_server", self.edge, site.folder / faiss.INDEX, port_of(address)), ready)
        return address

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        bodies = [struct.pack("<I", knob) + pack(query) for query in queries]
        if self.edge == "mosec":
            head = b"POST /inference HTTP/1.1\r\nHost: %b\r\nContent-Length: %d\r\n\r\n" % (
                address.encode(),
                len(bodies[0]),
            )
            return Searches(
                wire=OneAtATime(http_answer_length),
                requests=[head + body for body in bodies],
                rows=one_each(lambda answer: _rows(answer.partition(b"\r\n\r\n")[2])),
            )
        return Searches(wire=Grpc(METHOD), requests=bodies, rows=one_each(_rows))


def _rows(answer: bytes) -> Sequence[int]:
    """`thin_server.py` answers K rows as int64, then K scores as float32."""
    rows: list[int] = np.frombuffer(answer[: len(answer) // 12 * 8], "<i8").tolist()
    return rows
