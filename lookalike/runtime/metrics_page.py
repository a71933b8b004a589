"""The Prometheus page of a process. Starts an HTTP server."""

from __future__ import annotations

import logging
import socket
import ssl
import threading
from collections.abc import Callable, Iterable, Sequence
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app, start_http_server

from lookalike.errors import CallerError, LookalikeError, Unauthenticated
from lookalike.runtime.call import Call, Guard

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

log = logging.getLogger(__name__)

METRICS = "/metrics"  # The method of the call that a guard sees in place of a request for the page.
_IDENTITIES = "lookalike.identities"  # In the environment of a request: the names in the client's certificate.
_REQUEST_S = 10.0  # Of a client that sends no request.


def expose_metrics(
    host: str, port: int, guard: Guard | None = None, tls: Callable[[], ssl.SSLContext] | None = None
) -> None:
    """Serve /metrics on its own thread; port 0: no metrics page.

    guard: refuses requests by their header `authorization`, as it does calls of the method METRICS.
    tls:   the context of each connection; None: plain.
    """
    if not port:
        return
    if guard is None and tls is None:
        start_http_server(port, addr=host)
        return
    app = make_wsgi_app()
    page = make_server(host.strip("[]"), port, _guarded(app, guard) if guard else app, _Server, _Handler)
    page.tls = tls
    threading.Thread(target=page.serve_forever, name="metrics", daemon=True).start()


class _Server(ThreadingMixIn, WSGIServer):
    """prometheus_client's own keeps the certificate of its start, and lets one slow handshake hold up all others."""

    daemon_threads = True
    tls: Callable[[], ssl.SSLContext] | None = None

    def __init__(self, address: tuple[str, int], handler: type[WSGIRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        connection.settimeout(_REQUEST_S)
        if self.tls is None:
            return connection, address
        # The handshake is at the first read, in the thread of the connection.
        return self.tls().wrap_socket(connection, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("a connection to the metrics page failed", exc_info=True)


class _Handler(WSGIRequestHandler):
    def get_environ(self) -> dict[str, Any]:
        return {**super().get_environ(), _IDENTITIES: _names_of(self.connection)}

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: Prometheus asks every few seconds."""


def _names_of(connection: socket.socket) -> Sequence[str]:
    certificate: Any = connection.getpeercert() if isinstance(connection, ssl.SSLSocket) else None
    return [value for _, value in (certificate or {}).get("subjectAltName", ())]


def _guarded(page: WSGIApplication, guard: Guard) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        peer = f"ipv4:{environ.get('REMOTE_ADDR', '')}:0"
        try:
            guard(
                Call(METRICS, (("authorization", environ.get("HTTP_AUTHORIZATION", "")),), peer, environ[_IDENTITIES])
            )
        except Unauthenticated as error:
            return _refuse(start_response, "401 Unauthorized", error)
        except CallerError as error:
            return _refuse(start_response, "403 Forbidden", error)
        except LookalikeError as error:
            return _refuse(start_response, "503 Service Unavailable", error)
        return page(environ, start_response)

    return answer


def _refuse(start_response: StartResponse, status: str, error: LookalikeError) -> Iterable[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8"), ("WWW-Authenticate", "Bearer")])
    return [f"{error}\n".encode()]
