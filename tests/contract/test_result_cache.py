"""The behaviour of every result cache, in memory and in a real Redis; and that of the latter when Redis fails."""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import AsyncIterator

import pytest
import uvloop
from redis.asyncio import Redis

from benchmarks.faults.proxy import Mode, Proxy
from lookalike.runtime.reported_breaker import OPEN
from lookalike.spaces import VECTOR_SPACES
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import Filter, SpaceWeight
from server import metrics
from server.query import parse_query
from server.redis_result_cache import RedisResultCache, with_digest
from server.result_cache import MemoryResultCache, RequestKeys, ResultCache, digest_of
from tests.conftest import running_redis


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[ResultCache]:
    cache = build_cache(request, ttl_s=60)
    yield cache
    await cache.close()


@pytest.fixture(params=["memory", "redis"])
async def short_lived(request: pytest.FixtureRequest) -> AsyncIterator[ResultCache]:
    cache = build_cache(request, ttl_s=0.1)
    yield cache
    await cache.close()


def build_cache(request: pytest.FixtureRequest, ttl_s: float) -> ResultCache:
    if request.param == "memory":
        return MemoryResultCache(max_bytes=1 << 20, ttl_s=ttl_s)
    return RedisResultCache(request.getfixturevalue("redis_url"), ttl_s=ttl_s, timeout_s=2)


async def get_when_kept(cache: ResultCache, key: str) -> bytes | None:
    """The value once it is there: a put is not awaited. None after a second."""
    for _ in range(50):
        if (value := await cache.get(key)) is not None:
            return value
        await asyncio.sleep(0.02)
    return None


async def test_a_value_that_was_put_is_found_and_no_other(cache: ResultCache) -> None:
    cache.put("a", b"\x00one")
    cache.put("b", b"two")
    assert await get_when_kept(cache, "a") == b"\x00one"
    assert await get_when_kept(cache, "b") == b"two"
    assert await cache.get("c") is None


async def test_a_second_put_replaces_the_first(cache: ResultCache) -> None:
    cache.put("a", b"one")
    assert await get_when_kept(cache, "a") == b"one"
    cache.put("a", b"two")
    await asyncio.sleep(0.05)
    assert await get_when_kept(cache, "a") == b"two"


async def test_nothing_is_found_after_its_time_to_live(short_lived: ResultCache) -> None:
    short_lived.put("a", b"one")
    await asyncio.sleep(0.5)
    assert await short_lived.get("a") is None


async def test_concurrent_gets_each_get_their_own_value(cache: ResultCache) -> None:
    for i in range(200):
        cache.put(f"k{i}", b"%d" % i)
    await get_when_kept(cache, "k199")
    values = await asyncio.gather(*(cache.get(f"k{i}") for i in range(200)))
    assert values == [b"%d" % i for i in range(200)]


async def test_the_memory_cache_evicts_the_least_recently_used_at_its_bound() -> None:
    cache = MemoryResultCache(max_bytes=3 * 11, ttl_s=60)
    for key in "abc":
        cache.put(key, bytes(10))
    assert await cache.get("a") is not None
    cache.put("d", bytes(10))
    assert [key for key in "abcd" if await cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("huge", bytes(100))
    assert await cache.get("huge") is None


async def test_a_look_into_memory_finds_what_a_get_does_and_counts_as_a_use() -> None:
    now_s = 0.0
    cache = MemoryResultCache(max_bytes=3 * 11, ttl_s=60, clock=lambda: now_s)
    for key in "abc":
        cache.put(key, bytes(10))
    assert cache.peek("a") == bytes(10)
    assert cache.peek("d") is None
    cache.put("d", bytes(10))
    assert [key for key in "abcd" if cache.peek(key) is not None] == ["a", "c", "d"]
    now_s = 60
    assert cache.peek("a") is None
    assert await cache.get("a") is None


async def test_a_value_in_redis_that_is_not_what_was_stored_under_its_key_is_not_found() -> None:
    with running_redis() as (url, _):
        cache = RedisResultCache(url, ttl_s=60, timeout_s=2)
        async with Redis.from_url(url) as redis:
            cache.put("other", b"another value")
            assert await get_when_kept(cache, "other") == b"another value"
            (other,) = [await redis.get(name) for name in await redis.keys()]
            cache.put("a", b"a value")
            assert await get_when_kept(cache, "a") == b"a value"
            (name,) = await redis.keys("*a")
            stored = await redis.get(name)
            assert isinstance(stored, bytes)
            assert isinstance(other, bytes)
            flipped = [stored[:i] + bytes([stored[i] ^ 1]) + stored[i + 1 :] for i in range(len(stored))]
            cut = [stored[:i] for i in range(len(stored))]
            for damaged in (b"garbage", b"\xff", stored + b"\0", other, *flipped, *cut):
                await redis.set(name, damaged)
                assert await cache.get("a") is None, damaged
            cache.put("a", b"a value")
            assert await get_when_kept(cache, "a") == b"a value"
        await cache.close()


async def test_a_redis_that_hangs_or_is_gone_never_raises_and_is_used_again_when_it_is_back() -> None:
    with running_redis() as (url, process):
        cache = RedisResultCache(url, ttl_s=60, timeout_s=0.1, pause_s=0.05)
        cache.put("a", b"one")
        assert await get_when_kept(cache, "a") == b"one"
        process.send_signal(signal.SIGSTOP)
        assert await cache.get("a") is None
        cache.put("b", b"two")
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.2)
        assert await get_when_kept(cache, "a") == b"one"
    await asyncio.sleep(0.2)
    assert await cache.get("a") is None
    cache.put("a", b"one")
    await asyncio.sleep(0.05)
    await cache.close()


async def test_what_a_hanging_redis_answers_late_is_not_taken_for_the_answer_to_another_get() -> None:
    with running_redis() as (url, process):
        cache = RedisResultCache(url, ttl_s=60, timeout_s=0.1, pause_s=0.05)
        for key in ("a", "b"):
            cache.put(key, key.encode())
            assert await get_when_kept(cache, key) == key.encode()
        process.send_signal(signal.SIGSTOP)
        assert await cache.get("a") is None
        process.send_signal(signal.SIGCONT)
        for _ in range(20):
            assert await cache.get("b") in {b"b", None}
        assert await get_when_kept(cache, "b") == b"b"
        await cache.close()


async def test_a_connection_that_redis_closed_is_opened_again_without_a_miss() -> None:
    with running_redis() as (url, _):
        cache = RedisResultCache(url, ttl_s=60, timeout_s=2)
        cache.put("a", b"one")
        assert await get_when_kept(cache, "a") == b"one"
        async with Redis.from_url(url) as redis:
            await redis.client_kill_filter(_type="normal", skipme=True)
        assert await cache.get("a") == b"one"
        await cache.close()


def test_a_connection_that_was_reset_is_opened_again_without_a_miss_on_the_loop_that_gateways_run_on() -> None:
    async def reset_and_get(url: str) -> None:
        proxy = Proxy(int(url.rpartition(":")[2]))
        async with await asyncio.start_server(proxy.serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            cache = RedisResultCache(f"redis://127.0.0.1:{port}", ttl_s=60, timeout_s=5)
            cache.put("a", b"one")
            assert await get_when_kept(cache, "a") == b"one"
            proxy.set_mode(Mode.RESET)
            await asyncio.sleep(0.05)  # In which the gateway's loop notices, and closes the transport.
            proxy.set_mode(Mode.PASS)
            assert await cache.get("a") == b"one"
            await cache.close()

    with running_redis() as (url, _):
        uvloop.run(reset_and_get(url))


async def test_during_the_pause_after_failures_redis_is_not_called() -> None:
    clock = [0.0]
    cache = RedisResultCache("redis://127.0.0.1:1", ttl_s=60, timeout_s=0.1, pause_s=10, clock=lambda: clock[0])
    for _ in range(3):
        assert await cache.get("a") is None
    calls: list[list[str]] = []

    async def count(keys: list[str]) -> list[bytes | None]:
        calls.append(keys)
        return [with_digest("a", b"back")] * len(keys)

    cache._get_batcher._send = count
    assert (await cache.get("a"), calls) == (None, [])
    clock[0] = 10.1
    assert await cache.get("a") == b"back"
    await cache.close()


async def test_one_failed_call_does_not_pause_redis() -> None:
    cache = RedisResultCache("redis://127.0.0.1:1", ttl_s=60, timeout_s=0.1, pause_s=10)
    assert await cache.get("a") is None

    async def answer(keys: list[str]) -> list[bytes | None]:
        return [with_digest("a", b"there")] * len(keys)

    cache._get_batcher._send = answer
    assert await cache.get("a") == b"there"
    await cache.close()


async def test_gets_that_fail_together_are_one_failure() -> None:
    cache = RedisResultCache("redis://127.0.0.1:1", ttl_s=60, timeout_s=0.1, pause_s=10)
    for _ in range(2):
        assert await asyncio.gather(*(cache.get(f"k{i}") for i in range(50))) == [None] * 50
    assert cache._gets.allows()
    assert await cache.get("a") is None
    assert not cache._gets.allows()
    await cache.close()


async def test_after_the_pause_one_call_tries_again_for_all() -> None:
    clock = [0.0]
    cache = RedisResultCache("redis://127.0.0.1:1", ttl_s=60, timeout_s=0.1, pause_s=10, clock=lambda: clock[0])
    for _ in range(3):
        assert await cache.get("a") is None
    clock[0] = 10.0
    failures = metrics.CACHE_FAILURES._value.get()
    assert await asyncio.gather(*(cache.get(f"k{i}") for i in range(200))) == [None] * 200
    assert metrics.CACHE_FAILURES._value.get() == failures + 1
    await cache.close()


async def test_a_full_redis_that_refuses_every_set_is_said_once_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with running_redis() as (url, _), caplog.at_level(logging.INFO):
        cache = RedisResultCache(url, ttl_s=60, timeout_s=2, pause_s=0.01)
        cache.put("a", b"one")
        assert await get_when_kept(cache, "a") == b"one"
        async with Redis.from_url(url) as redis:
            await redis.config_set("maxmemory-policy", "noeviction")
            await redis.config_set("maxmemory", "1")
            failures = metrics.CACHE_FAILURES._value.get()
            while metrics.CACHE_FAILURES._value.get() < failures + 6:  # Three open the breaker, the others try again.
                cache.put("b", b"two")
                assert await cache.get("a") == b"one"
                await asyncio.sleep(0.005)
            assert OPEN.labels("redis set")._value.get() == 1
            await redis.config_set("maxmemory", "0")
            while not cache._sets._breaker.is_closed:
                cache.put("b", b"two")
                await asyncio.sleep(0.005)
        assert await get_when_kept(cache, "b") == b"two"
        await cache.close()
    full, over = caplog.messages
    assert full.startswith("redis set: answers are not stored: ")
    assert "used memory > 'maxmemory'" in full
    assert over == "redis set: answered again"
    assert OPEN.labels("redis set")._value.get() == 0


def key_of(policy: str = "*=text", **fields: object) -> str:
    request = SearchRequest(**{"examples": [Example(product_id="p")], **fields})  # type: ignore[arg-type]
    return RequestKeys(policy).key(digest_of(request.SerializeToString()), request, parse_query(request)).key


def weights(**by_name: float) -> list[SpaceWeight]:
    return [SpaceWeight(space=VECTOR_SPACES[name], weight=weight) for name, weight in by_name.items()]


def test_requests_that_mean_the_same_have_one_key() -> None:
    assert key_of() == key_of(limit=10) == key_of(examples=[Example(product_id="p", weight=1)])
    assert key_of(filter=Filter(shop_in=["a", "b"])) == key_of(filter=Filter(shop_in=["b", "a", "a"]))
    assert key_of() == key_of(diversity=0)
    assert key_of() == key_of(filter=Filter()) == key_of(min_coverage=0.5)
    assert key_of(weights=weights(image=1, text=3)) == key_of(weights=weights(text=0.75, image=0.25))


def test_requests_that_mean_different_things_or_search_different_versions_have_different_keys() -> None:
    keys = [
        key_of(),
        key_of(policy="*=image"),
        key_of(limit=11),
        key_of(space=1),
        key_of(exact=True),
        key_of(exclude_same_shop=True),
        key_of(filter=Filter(in_stock=True)),
        key_of(filter=Filter(in_stock=False)),
        key_of(explain=True),
        key_of(filter=Filter(any_of=[Filter(in_stock=True)])),
        key_of(filter=Filter(none_of=[Filter(in_stock=True)])),
        key_of(max_per_shop=1),
        key_of(max_per_shop=2),
        key_of(diversity=0.5),
        key_of(diversity=1),
        key_of(min_score=0),
        key_of(min_score=0.5),
        key_of(weights=weights(image=1, text=1)),
        key_of(weights=weights(image=1, text=2)),
        key_of(weights=weights(image=1, product=2)),
        key_of(examples=[Example(text="p")]),
        key_of(examples=[Example(product_id="p", weight=2)]),
        key_of(examples=[Example(product_id="p"), Example(product_id="q")]),
    ]
    assert len(set(keys)) == len(keys)
