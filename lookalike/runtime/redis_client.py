"""Opens Redis by its URL, by TLS for rediss://. Network I/O (RESP), when it is first called."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection

from lookalike import channels


class _RenewedConnection(SSLConnection):
    """Reads the files of certificates at each connection; redis-py keeps what it has read at the first."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        arguments: Mapping[str, Any] = super()._connection_arguments()
        return arguments


def open_redis(url: str, **options: Any) -> Redis:
    """The client of a URL: redis://…, or rediss://… by TLS, with the CA and certificate by which servers are called.

    What the URL itself says (?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE) is used before that; without either
    the machine's own CAs are. The certificate must have the name of the URL. Raises ValueError for a malformed URL.
    """
    if not url.startswith("rediss:"):
        return Redis.from_url(url, **options)
    if tls := channels.process_tls():
        options |= {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert or None, "ssl_keyfile": tls.key or None}
    client = Redis.from_url(url, **options)
    client.connection_pool.connection_class = _RenewedConnection
    return client
