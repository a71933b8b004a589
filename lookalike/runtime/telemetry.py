"""Logging and the Prometheus page of a process. Starts an HTTP server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import make_wsgi_app, start_http_server

from lookalike.errors import CallerError, LookalikeError, Unauthenticated
from lookalike.runtime.call import Call, Guard

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

METRICS = "/metrics"  # The method of the call that a guard sees in place of a request for the page.
_REQUEST_S = 10.0  # Of a client that sends no request.

# Bounds of classic histogram buckets, dense around the latency objectives. Above 1 s something is wrong.
SECONDS_BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 10.0)


def configure_logging(level: str) -> None:
    """One line per event on standard error."""
    logging.basicConfig(level=level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")


def expose_metrics(host: str, port: int, guard: Guard | None = None) -> None:
    """Serve /metrics on its own thread; port 0: no metrics page.

    guard: refuses requests by their header `authorization`, as it does calls of the method METRICS.
    """
    if not port:
        return
    if guard is None:
        start_http_server(port, addr=host)
        return
    page = make_server(host, port, _guarded(make_wsgi_app(), guard), _Server, _Handler)
    threading.Thread(target=page.serve_forever, name="metrics", daemon=True).start()


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Handler(WSGIRequestHandler):
    timeout = _REQUEST_S

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: Prometheus asks every few seconds."""


def _guarded(page: WSGIApplication, guard: Guard) -> WSGIApplication:
    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        peer = f"ipv4:{environ.get('REMOTE_ADDR', '')}:0"
        try:
            guard(Call(METRICS, (("authorization", environ.get("HTTP_AUTHORIZATION", "")),), peer))
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
