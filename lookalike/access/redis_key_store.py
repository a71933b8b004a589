"""Keys in Redis: a hash of them by id, and a counter of their changes. Network I/O.

The Redis has to persist (`appendonly yes`) and must not evict: a server that starts while the keys are lost has none.
Servers that run notice that the counter went back, and keep what they know.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from redis.exceptions import RedisError, WatchError

from lookalike.access.key import AccessKey, from_document, parse_json, to_document
from lookalike.access.key_store import StoredKeys, check_identity
from lookalike.errors import BadArtifact, Unavailable
from lookalike.runtime.redis_client import open_blocking_redis

KEYS, GENERATION = "lookalike:keys", "lookalike:keys:generation"
_TIMEOUT_S = 1.0
_ATTEMPTS = 20


class RedisKeyStore:
    """A `KeyStore` in Redis. Use it from one thread at a time."""

    def __init__(self, url: str) -> None:
        timeouts = {"socket_timeout": _TIMEOUT_S, "socket_connect_timeout": _TIMEOUT_S}
        self._redis = open_blocking_redis(url, "keys", retry=None, decode_responses=True, **timeouts)

    def read(self, known: str = "") -> StoredKeys | None:
        with _reported():
            generation = self._redis.get(GENERATION)
            if known and int(generation or 0) < int(known):
                raise Unavailable("Redis has lost changes of keys: it was emptied, or is an older copy")
            if generation is None:
                return StoredKeys((), "")
            if generation == known:
                return None
            with self._redis.pipeline(transaction=True) as both:
                both.get(GENERATION)
                both.hgetall(KEYS)
                generation, documents = both.execute()
            return StoredKeys(_parse(documents), str(generation))

    def put(self, key: AccessKey) -> None:
        with _reported():
            for _ in range(_ATTEMPTS):
                with self._redis.pipeline(transaction=True) as change:
                    change.watch(GENERATION)  # type: ignore[no-untyped-call]  # redis-py
                    check_identity(key, _parse(change.hgetall(KEYS)))
                    change.multi()
                    change.hset(KEYS, key.id, _dump(key))
                    change.incr(GENERATION)
                    try:
                        change.execute()
                    except WatchError:  # Another change came between.
                        continue
                    return
        raise Unavailable("Redis: others change the keys all the time; try again")

    def remove(self, id_: str) -> bool:
        with _reported(), self._redis.pipeline(transaction=True) as change:
            change.hdel(KEYS, id_)
            change.incr(GENERATION)
            removed, _ = change.execute()
            return bool(removed)

    def close(self) -> None:
        self._redis.close()


def _dump(key: AccessKey) -> str:
    return json.dumps(to_document(key), ensure_ascii=False)


def _parse(documents: Any) -> list[AccessKey]:
    try:
        keys = [from_document(parse_json(each)) for each in documents.values()]
    except BadArtifact as error:
        raise BadArtifact(f"Redis, {KEYS}: {error}") from None
    return sorted(keys, key=lambda key: (key.created_s, key.id))


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except RedisError as error:
        raise Unavailable(f"Redis, which has the keys: {type(error).__name__}") from error
