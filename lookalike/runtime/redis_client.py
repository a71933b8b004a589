"""Opens clients of Redis by URL, by TLS for rediss://, without a word of the URL in an error. No I/O yet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from redis import Redis as BlockingRedis
from redis.asyncio import Redis
from redis.asyncio.connection import SSLConnection

from lookalike import channels
from lookalike.errors import BadSettings

_DATABASE = re.compile(r"/?|/\d+")
_FORM = (
    "expected redis://[user:password@]host:port[/number], rediss://… or unix://…; in a password write @ as %40, : as "
    "%3A, / as %2F, ? as %3F, # as %23 and % as %25"
)


class _RenewedConnection(SSLConnection):
    """Reads the files of certificates at each connection; redis-py keeps what it has read at the first."""

    def _connection_arguments(self) -> Mapping[str, Any]:
        self.ssl_context.context = None
        arguments: Mapping[str, Any] = super()._connection_arguments()
        return arguments


def open_redis(url: str, what: str, **options: Any) -> Redis:
    """The client of a URL: redis://…, or rediss://… by TLS, with the CA and certificate by which servers are called.

    What the URL itself says (?ssl_ca_certs=FILE&ssl_certfile=FILE&ssl_keyfile=FILE) is used before that; without either
    the machine's own CAs are. The certificate must have the name of the URL.

    what: the name of the URL's setting, for errors.

    Raises BadSettings. A password that is not escaped is refused: a part of it would be taken for the host, and logged.
    """
    client: Redis = _open(Redis, url, what, options)
    if _is_encrypted(url):
        client.connection_pool.connection_class = _RenewedConnection
    return client


def open_blocking_redis(url: str, what: str, **options: Any) -> BlockingRedis:
    """As `open_redis`; the files of certificates are those of its start."""
    client: BlockingRedis = _open(BlockingRedis, url, what, options)
    return client


def _open(client: Any, url: str, what: str, options: dict[str, Any]) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # Raises ValueError.
        is_misread = parts.netloc.count("@") > 1 or "#" in url
        if is_misread or not (parts.scheme == "unix" or _DATABASE.fullmatch(parts.path)):
            raise ValueError
        if _is_encrypted(url) and (tls := channels.process_tls()):
            options |= {"ssl_ca_certs": tls.ca, "ssl_certfile": tls.cert or None, "ssl_keyfile": tls.key or None}
        return client.from_url(url, **options)
    except ValueError:
        raise BadSettings(f"{what}: {_FORM}") from None


def _is_encrypted(url: str) -> bool:
    return url.startswith("rediss:")
