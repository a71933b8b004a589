"""Logging and the Prometheus page of a process. Starts an HTTP server."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from http.server import ThreadingHTTPServer
from typing import Any

from prometheus_client import MetricsHandler, start_http_server

log = logging.getLogger(__name__)

_HANDSHAKE_S = 10.0

# Bounds of classic histogram buckets, dense around the latency objectives. Above 1 s something is wrong.
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


def configure_logging(level: str) -> None:
    """One line per event on standard error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def expose_metrics(host: str, port: int, tls: Callable[[], ssl.SSLContext] | None = None) -> None:
    """Serve /metrics on its own thread; port 0: no metrics page. tls: the context of each connection; None: plain."""
    if not port:
        return
    if tls is None:
        start_http_server(port, addr=host)
        return
    server = _TlsServer((host, port), MetricsHandler, tls)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()


class _TlsServer(ThreadingHTTPServer):
    """prometheus_client's own keeps the certificate of its start, and lets one slow handshake hold up all others."""

    def __init__(
        self, address: tuple[str, int], handler: type[MetricsHandler], tls: Callable[[], ssl.SSLContext]
    ) -> None:
        self._tls = tls
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__((address[0].strip("[]"), address[1]), handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(_HANDSHAKE_S)
        # The handshake is at the first read, in the thread of the connection.
        return self._tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection to the metrics page failed", exc_info=True)
