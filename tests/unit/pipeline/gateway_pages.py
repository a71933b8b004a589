"""A gateway of which only the metrics page exists, and a server of such pages."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from lookalike.runtime.telemetry import SECONDS_BUCKETS


class GatewayPage:
    """Counts what a test says it did."""

    def __init__(self, version: str = "v1", started_s: float = 1000.0) -> None:
        self._registry = registry = CollectorRegistry()
        self._requests = Histogram(
            "lookalike_request_seconds",
            "",
            ["method", "space", "outcome", "cached"],
            buckets=SECONDS_BUCKETS,
            registry=registry,
        )
        self._degraded = Counter("lookalike_degraded_total", "", ["reason"], registry=registry)
        self._answers = Counter("lookalike_answers_total", "", ["hits"], registry=registry)
        self._classified = Counter("lookalike_classified_total", "", ["outcome"], registry=registry)
        self._release = Gauge("lookalike_release", "", ["version"], registry=registry)
        self._recall = {
            name: Gauge(f"lookalike_recall_{name}", "", ["version", "space"], registry=registry)
            for name in ("promised", "at_10", "short")
        }
        Gauge("process_start_time_seconds", "", registry=registry).set(started_s)
        self.serve(version)

    def serve(self, version: str) -> None:
        self.version = version
        self._release.clear()
        if version:
            self._release.labels(version).set(1)

    def search(self, count: int = 1, *, outcome: str = "OK", seconds: float = 0.004, cached: bool = False) -> None:
        series = self._requests.labels("Search", "image", outcome, str(cached).lower())
        for _ in range(count):
            series.observe(seconds)
        if outcome == "OK" and not cached:
            self._answers.labels("found").inc(count)

    def empty(self, count: int) -> None:
        self.search(count)
        self._answers.labels("empty").inc(count)

    def degrade(self, reason: str, count: int) -> None:
        self._degraded.labels(reason).inc(count)

    def classify(self, named: int, abstained: int) -> None:
        self._classified.labels("named").inc(named)
        self._classified.labels("abstained").inc(abstained)

    def recall(self, promised: float, found: float | None, *, short: bool = False) -> None:
        labels = self.version, "image"
        self._recall["promised"].labels(*labels).set(promised)
        if found is not None:
            self._recall["at_10"].labels(*labels).set(found)
            self._recall["short"].labels(*labels).set(short)

    def text(self) -> str:
        return generate_latest(self._registry).decode()


@contextmanager
def serving_page(text: Callable[[], str], host: str = "127.0.0.1", port: int = 0) -> Iterator[tuple[int, list[str]]]:
    """The port of a server of a page, and the hosts that requests name."""
    hosts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            hosts.append(self.headers["Host"])
            self.send_response(200 if self.path == "/metrics" else 404)
            self.end_headers()
            self.wfile.write(text().encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer((host, port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port, hosts
        finally:
            server.shutdown()
            thread.join()
