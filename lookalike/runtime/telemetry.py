"""Logging and the Prometheus page of a process. Starts an HTTP server."""

from __future__ import annotations

import logging

from prometheus_client import start_http_server

# Bounds of classic histogram buckets, dense around the latency objectives. Above 1 s something is wrong.
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


def configure_logging(level: str) -> None:
    """One line per event on standard error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def expose_metrics(host: str, port: int) -> None:
    """Serve /metrics on its own thread; port 0: no metrics page."""
    if port:
        start_http_server(port, addr=host)
