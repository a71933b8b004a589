"""A server that searches one FAISS index, no more: `python -m benchmarks.serving.thin_server EDGE INDEX PORT`.

EDGE is mosec, grpc-sync or grpc-aio. A request is efSearch as a uint32 and a float32 vector; the answer is the rows of
the K nearest as int64, and their scores as float32.
"""

from __future__ import annotations

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import import_module
from typing import Any

import numpy as np

from benchmarks.neighbours import K

_INDEX = "SERVING_INDEX"  # mosec starts its workers with environment variables, not with arguments.


class FaissSearch:
    def __init__(self, path: str) -> None:
        faiss: Any = import_module("faiss")

        self._faiss = faiss
        faiss.omp_set_num_threads(1)
        self._index = faiss.read_index(path)

    def __call__(self, request: bytes) -> bytes:
        params = self._faiss.SearchParametersHNSW(efSearch=int.from_bytes(request[:4], "little"))
        query = np.frombuffer(request, "<f4", offset=4)[None, :]
        scores, rows = self._index.search(query, K, params=params)
        answer: bytes = rows.tobytes() + scores.tobytes()
        return answer


def serve_mosec(path: str, port: int) -> None:
    import mosec

    class Search(mosec.Worker):  # type: ignore[misc]  # mosec has no types here
        def __init__(self) -> None:
            super().__init__()
            self._search = FaissSearch(os.environ[_INDEX])  # noqa: TID251  # see _INDEX

        def deserialize(self, data: bytes) -> bytes:
            return data

        def serialize(self, data: bytes) -> bytes:
            return data

        def forward(self, data: bytes) -> bytes:
            return self._search(data)

    sys.argv = [sys.argv[0], "--address", "127.0.0.1", "--port", str(port), "--log-level", "warning"]
    server = mosec.Server()
    server.append_worker(Search, num=1, env=[{_INDEX: path}], start_method="fork")
    server.run()


def grpc_handler(search: Any) -> Any:
    import grpc

    return grpc.method_handlers_generic_handler("serving.Thin", {"Search": grpc.unary_unary_rpc_method_handler(search)})


def serve_grpc_sync(path: str, port: int) -> None:
    import grpc

    search = FaissSearch(path)
    server = grpc.server(ThreadPoolExecutor(4), [grpc_handler(lambda request, context: search(request))])
    server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    server.wait_for_termination()


async def serve_grpc_aio(path: str, port: int) -> None:
    import grpc.aio

    search = FaissSearch(path)

    async def answer(request: bytes, context: Any) -> bytes:
        return search(request)

    server = grpc.aio.server(handlers=[grpc_handler(answer)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


def main(edge: str, path: str, port: int) -> None:
    if edge == "mosec":
        serve_mosec(path, port)
    elif edge == "grpc-sync":
        serve_grpc_sync(path, port)
    else:
        asyncio.run(serve_grpc_aio(path, port))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
