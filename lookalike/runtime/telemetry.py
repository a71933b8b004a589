"""Logging and the Prometheus page of a process. Starts an HTTP server."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app, start_http_server

log = logging.getLogger(__name__)

_REQUEST_S = 10.0  # Of a client that sends no request.

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
    page = make_server(host.strip("[]"), port, make_wsgi_app(), _TlsServer, _Handler)
    page.tls = tls
    threading.Thread(target=page.serve_forever, name="metrics", daemon=True).start()


class _TlsServer(ThreadingMixIn, WSGIServer):
    """prometheus_client's own keeps the certificate of its start, and lets one slow handshake hold up all others."""

    daemon_threads = True
    tls: Callable[[], ssl.SSLContext]

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(_REQUEST_S)
        # The handshake is at the first read, in the thread of the connection.
        return self.tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection to the metrics page failed", exc_info=True)


class _Handler(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Nothing: Prometheus asks every few seconds."""
