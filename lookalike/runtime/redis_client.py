"""Opens clients of Redis by URL, without a word of the URL in an error: it may have a password. No I/O yet."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

from redis import Redis as BlockingRedis
from redis.asyncio import Redis

from lookalike.errors import BadSettings
from lookalike.runtime.redis_tls import renewed, tls_options

_DATABASE = re.compile(r"/?|/\d+")
_FORM = (
    "expected redis://[user:password@]host:port[/number], rediss://… or unix://…; in a password write @ as %40, : as "
    "%3A, / as %2F, ? as %3F, # as %23 and % as %25"
)


def open_redis(url: str, what: str, **options: Any) -> Redis:
    """The client of a Redis, by TLS for rediss://. `what` names its setting, for errors. Raises BadSettings.

    A password that is not escaped is refused here: a part of it would be taken for the host, and logged as that.
    """
    client: Redis = _open(Redis, url, what, options)
    return renewed(client)


def open_blocking_redis(url: str, what: str, **options: Any) -> BlockingRedis:
    """As `open_redis`; certificates are those of its first connection."""
    client: BlockingRedis = _open(BlockingRedis, url, what, options)
    return client


def _open(client: Any, url: str, what: str, options: dict[str, Any]) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018  # Raises ValueError.
        is_misread = parts.netloc.count("@") > 1 or "#" in url
        if is_misread or not (parts.scheme == "unix" or _DATABASE.fullmatch(parts.path)):
            raise ValueError
        return client.from_url(url, **options, **tls_options(url))
    except ValueError:
        raise BadSettings(f"{what}: {_FORM}") from None
