"""Redis by TLS: a client of rediss:// gets the certificates by which this process calls others. I/O: files of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection

from lookalike import channels


def tls_options(url: str) -> dict[str, Any]:
    """The options with which to open rediss://…: the CA of servers and this process's own certificate; else none.

    What the URL itself says goes before them (?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE); without either
    the machine's own CAs are used. The server's certificate must have the name of the URL.
    """
    tls = channels.process_tls()
    if tls is None or not url.startswith("rediss:"):
        return {}
    return {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert or None, "ssl_keyfile": tls.key or None}


def renewed(client: Redis) -> Redis:
    """The client, which reads the files again for each connection by TLS: redis-py keeps what it read at the first."""
    if client.connection_pool.connection_class is SSLConnection:
        client.connection_pool.connection_class = _RenewedConnection
    return client


class _RenewedConnection(SSLConnection):
    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        arguments: Mapping[str, Any] = super()._connection_arguments()
        return arguments
