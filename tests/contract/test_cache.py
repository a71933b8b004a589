"""What every result cache does, held against the one in memory and a real Redis; and what Redis does when it fails."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest

from lookalike.spaces import VECTOR_SPACES
from lookalike.v1.search_pb2 import Example, SearchRequest
from lookalike.v1.types_pb2 import Filter, SpaceWeight
from server.cache import Cache, MemoryCache, cache_key
from server.query import parse_query
from server.redis_cache import RedisCache
from tests.conftest import running_redis


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    made = a_cache(request, ttl_s=60)
    yield made
    await made.close()


@pytest.fixture(params=["memory", "redis"])
async def short_lived(request: pytest.FixtureRequest) -> AsyncIterator[Cache]:
    made = a_cache(request, ttl_s=0.1)
    yield made
    await made.close()


def a_cache(request: pytest.FixtureRequest, ttl_s: float) -> Cache:
    if request.param == "memory":
        return MemoryCache(max_bytes=1 << 20, ttl_s=ttl_s)
    return RedisCache(request.getfixturevalue("redis_url"), ttl_s=ttl_s, timeout_s=2)


async def kept(cache: Cache, key: str) -> bytes | None:
    """A put is not awaited: look until it shows, for a second at most."""
    for _ in range(50):
        if (value := await cache.get(key)) is not None:
            return value
        await asyncio.sleep(0.02)
    return None


async def test_what_is_put_is_there_and_nothing_else(cache: Cache) -> None:
    cache.put("a", b"\x00one")
    cache.put("b", b"two")
    assert await kept(cache, "a") == b"\x00one"
    assert await kept(cache, "b") == b"two"
    assert await cache.get("c") is None


async def test_a_second_put_replaces_the_first(cache: Cache) -> None:
    cache.put("a", b"one")
    assert await kept(cache, "a") == b"one"
    cache.put("a", b"two")
    await asyncio.sleep(0.05)
    assert await kept(cache, "a") == b"two"


async def test_nothing_outlives_its_time(short_lived: Cache) -> None:
    short_lived.put("a", b"one")
    await asyncio.sleep(0.5)
    assert await short_lived.get("a") is None


async def test_many_at_once_each_get_their_own(cache: Cache) -> None:
    for i in range(200):
        cache.put(f"k{i}", b"%d" % i)
    await kept(cache, "k199")
    values = await asyncio.gather(*(cache.get(f"k{i}") for i in range(200)))
    assert values == [b"%d" % i for i in range(200)]


async def test_the_memory_cache_lets_the_least_recently_used_go_at_its_bound() -> None:
    cache = MemoryCache(max_bytes=3 * 11, ttl_s=60)
    for key in "abc":
        cache.put(key, bytes(10))
    assert await cache.get("a") is not None
    cache.put("d", bytes(10))
    assert [key for key in "abcd" if await cache.get(key) is not None] == ["a", "c", "d"]
    cache.put("huge", bytes(100))
    assert await cache.get("huge") is None


async def test_a_redis_that_is_gone_hung_or_back_never_raises_and_is_used_again() -> None:
    with running_redis() as (url, process):
        cache = RedisCache(url, ttl_s=60, timeout_s=0.1, pause_s=0.05)
        cache.put("a", b"one")
        assert await kept(cache, "a") == b"one"
        process.send_signal(signal.SIGSTOP)
        assert await cache.get("a") is None
        cache.put("b", b"two")
        process.send_signal(signal.SIGCONT)
        await asyncio.sleep(0.2)
        assert await kept(cache, "a") == b"one"
    await asyncio.sleep(0.2)
    assert await cache.get("a") is None
    cache.put("a", b"one")
    await asyncio.sleep(0.05)
    await cache.close()


async def test_while_redis_is_left_alone_a_call_costs_no_time_out() -> None:
    clock = [0.0]
    cache = RedisCache("redis://127.0.0.1:1", ttl_s=60, timeout_s=0.1, pause_s=10, clock=lambda: clock[0])
    for _ in range(3):
        assert await cache.get("a") is None
    asked: list[list[str]] = []

    async def count(keys: list[str]) -> list[bytes | None]:
        asked.append(keys)
        return [b"back"] * len(keys)

    cache._gets._send = count
    assert (await cache.get("a"), asked) == (None, [])
    clock[0] = 10.1
    assert await cache.get("a") == b"back"
    await cache.close()


async def test_one_late_call_costs_its_own_answer_alone() -> None:
    cache = RedisCache("redis://127.0.0.1:1", ttl_s=60, timeout_s=0.1, pause_s=10)
    assert await cache.get("a") is None

    async def answer(keys: list[str]) -> list[bytes | None]:
        return [b"there"] * len(keys)

    cache._gets._send = answer
    assert await cache.get("a") == b"there"
    await cache.close()


def key_of(version: str = "v1", policy: str = "*=text", **fields: object) -> str:
    request = SearchRequest(**{"examples": [Example(product_id="p")], **fields})  # type: ignore[arg-type]
    return cache_key(version, policy, request, parse_query(request))


def weights(**by_name: float) -> list[SpaceWeight]:
    return [SpaceWeight(space=VECTOR_SPACES[name], weight=weight) for name, weight in by_name.items()]


def test_requests_that_mean_the_same_have_one_key() -> None:
    assert key_of() == key_of(limit=10) == key_of(examples=[Example(product_id="p", weight=1)])
    assert key_of(filter=Filter(shop_in=["a", "b"])) == key_of(filter=Filter(shop_in=["b", "a", "a"]))
    assert key_of() == key_of(diversity=0)
    assert key_of() == key_of(filter=Filter()) == key_of(min_coverage=0.5)
    assert key_of(weights=weights(image=1, text=3)) == key_of(weights=weights(text=0.75, image=0.25))


def test_requests_that_mean_different_things_or_versions_have_different_keys() -> None:
    keys = [
        key_of(),
        key_of("v2"),
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
