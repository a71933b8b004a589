"""The result cache in Redis, shared by all gateways. Network I/O.

It fails open: while Redis is down, answers are computed, not refused.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial

from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError

from lookalike.errors import BadSettings, Overloaded
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.redis_tls import renewed, tls_options
from lookalike.runtime.reported_breaker import ReportedBreaker
from server import metrics
from server.result_cache import digest_of

_MAX_FAILURES_IN_A_ROW = 3
_DIGEST_BYTES = 16


class RedisResultCache:
    """A `ResultCache` in Redis, with batched calls and a circuit breaker.

    GETs that arrive while one call is in flight are sent together as one MGET, on a connection of their own: through
    redis-py's client a call takes twice the CPU (70 in place of 33 µs). SETs that arrive meanwhile are one pipeline.
    A value begins with a digest of it and its key: one that was damaged, or written by something else, is not found.
    GETs and SETs have a circuit breaker each, since a full Redis answers the ones and refuses the others. After three
    calls that failed or were late none is made for `pause_s`: a Redis that is down or hangs costs a time-out per pause
    instead of one per request, and a single late call costs the answers that it was for their cache hits.
    """

    def __init__(
        self,
        url: str,
        *,
        ttl_s: float,
        timeout_s: float,
        pause_s: float = 1.0,
        prefix: str = "lookalike:search:3:",  # The number is the format of the values.
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            self._redis = renewed(Redis.from_url(url, socket_connect_timeout=timeout_s, retry=None, **tls_options(url)))
        except ValueError as error:
            raise BadSettings(f"redis url: {error}") from error
        self._connection = self._redis.connection_pool.make_connection()  # type: ignore[no-untyped-call]
        self._ttl_ms = max(1, round(ttl_s * 1000))
        self._timeout_s = timeout_s
        self._prefix = prefix
        breaker = partial(ReportedBreaker, max_failures=_MAX_FAILURES_IN_A_ROW, pause_s=pause_s, clock=clock)
        self._gets = breaker("redis get", "answers are computed, not looked up")
        self._sets = breaker("redis set", "answers are not stored")
        self._get_batcher: Coalescer[str, bytes | None] = Coalescer(
            self._mget, max_in_flight=1, max_batch=64, max_waiting=4096
        )
        self._set_batcher: Coalescer[tuple[str, bytes], None] = Coalescer(
            self._mset, max_in_flight=1, max_batch=64, max_waiting=1024
        )

    async def get(self, key: str) -> bytes | None:
        if not self._gets.allows():
            return None
        with suppress(Overloaded):  # While Redis is too slow, nothing is found.
            if (stored := await self._get_batcher.submit(self._prefix + key)) is None:
                return None
            value = stored[_DIGEST_BYTES:]
            if stored == with_digest(key, value):
                return value
            metrics.CACHE_DAMAGED.inc()
        return None

    def put(self, key: str, value: bytes) -> None:
        if not self._sets.allows():
            return
        with suppress(Overloaded):  # While Redis is too slow, values are not stored.
            self._set_batcher.submit((self._prefix + key, with_digest(key, value)))

    async def close(self) -> None:
        await self._connection.disconnect()
        await self._redis.aclose()

    async def _mget(self, keys: list[str]) -> Sequence[bytes | None]:
        if not self._gets.begin():  # It opened while they waited.
            return [None] * len(keys)
        was_connected = self._connection.is_connected
        try:
            async with asyncio.timeout(self._timeout_s):
                try:
                    values = await self._call("MGET", *keys)
                except RedisConnectionError:
                    if not was_connected:
                        raise
                    values = await self._call("MGET", *keys)  # Redis had closed it, as after a restart.
        except (RedisError, OSError, TimeoutError) as error:
            _record_failure(self._gets, error)
            return [None] * len(keys)
        self._gets.record_success()
        return values

    async def _call(self, *command: str) -> list[bytes | None]:
        """Raises RedisError, OSError. The connection closes when it fails or is given up: nothing is read late."""
        try:
            if not self._connection.is_connected:
                await self._connection.connect()
            await self._connection.send_command(*command)
        except RuntimeError as error:  # uvloop's for a connection that was reset; asyncio's own loop raises OSError.
            raise RedisConnectionError(str(error)) from error
        values: list[bytes | None] = await self._connection.read_response()
        return values

    async def _mset(self, entries: list[tuple[str, bytes]]) -> Sequence[None]:
        if not self._sets.begin():
            return [None] * len(entries)
        pipeline = self._redis.pipeline(transaction=False)
        for key, value in entries:
            pipeline.set(key, value, px=self._ttl_ms)
        try:
            async with asyncio.timeout(self._timeout_s):
                stored = await pipeline.execute(raise_on_error=False)  # Its error would have the value.
            if (refusal := next((each for each in stored if isinstance(each, RedisError)), None)) is not None:
                raise refusal
        except (RedisError, OSError, TimeoutError, RuntimeError) as error:  # The last as in `_call`.
            _record_failure(self._sets, error)
        else:
            self._sets.record_success()
        return [None] * len(entries)


def _record_failure(breaker: ReportedBreaker, error: Exception) -> None:
    metrics.CACHE_FAILURES.inc()
    breaker.record_failure(error)


def with_digest(key: str, value: bytes) -> bytes:
    """The value as it is stored under the key."""
    return digest_of(b"".join((key.encode(), b"\0", value)))[:_DIGEST_BYTES] + value
