"""A server that the reader runs is given the vectors and measured: a stand-in that speaks Qdrant's REST API."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.serving import __main__ as serving
from benchmarks.serving.__main__ import REPOSITORY, draw
from benchmarks.serving.measure import Settings, measure, prepare
from benchmarks.serving.qdrant import Qdrant
from benchmarks.serving.system import Elsewhere, Skipped


class FakeQdrant(BaseHTTPRequestHandler):
    """Holds one collection; finds all but one of the neighbours unless hnsw_ef is at least 64."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    vectors: np.ndarray[Any, np.dtype[np.float32]]

    def do_PUT(self) -> None:
        body = self._body()
        if self.path == "/collections/products":
            type(self).vectors = np.zeros((0, body["vectors"]["size"]), np.float32)
        if points := body.get("points"):
            assert [point["id"] for point in points] == list(range(len(self.vectors), len(self.vectors) + len(points)))
            type(self).vectors = np.vstack([self.vectors, np.array([point["vector"] for point in points], np.float32)])
        self._answer(True)

    def do_GET(self) -> None:
        self._answer({"status": "green", "indexed_vectors_count": len(self.vectors)})

    def do_POST(self) -> None:
        body = self._body()
        best = np.argsort(-(self.vectors @ np.array(body["query"], np.float32)))[: body["limit"]]
        found = best if body["params"]["hnsw_ef"] >= 64 else best[1:]
        self._answer({"points": [{"id": int(i), "score": 0.5} for i in found]})

    def _body(self) -> Any:
        return json.loads(self.rfile.read(int(self.headers["Content-Length"])))

    def _answer(self, result: Any) -> None:
        data = json.dumps({"result": result}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def address() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeQdrant)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setattr(serving, "TRUE_QUERIES", 100)
    monkeypatch.setattr(serving, "LOAD_QUERIES", 200)
    draw(tmp_path / "data", 300)
    cores = os.sched_getaffinity(0)
    return Settings(
        data=tmp_path / "data",
        environments=tmp_path / "environments",
        recall=0.95,
        seconds=0.1,
        rate=100,
        server_core=min(cores),
        client_core=max(cores),
        environ={**os.environ, "PYTHONPATH": str(REPOSITORY)},  # noqa: TID251  # what commands need to run
    )


def test_a_server_at_an_address_is_loaded_and_measured_at_the_first_knob_with_enough_recall(
    address: str, settings: Settings
) -> None:
    system = Elsewhere(Qdrant(), address)
    prepare(system, settings)
    row = measure(system, settings)
    assert (row["system"], row["knob"], row["knob_value"]) == (f"qdrant at {address}", "hnsw_ef", 64)
    assert row["recall"] == 1
    assert [cell["inflight"] for cell in row["cells"]] == [1, 16, 64]
    assert row["open_loop"]["rate"] == 100
    assert row["memory"]["pss_bytes"] > 0  # Of the process that listens at the address: this one.


def test_a_server_that_comes_in_no_package_is_skipped_unless_its_address_is_given(settings: Settings) -> None:
    with pytest.raises(Skipped, match="--address qdrant="):
        prepare(Qdrant(), settings)
