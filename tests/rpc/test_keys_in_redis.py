"""A gateway whose API keys are in Redis, which dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from lookalike.access import followed_keys
from lookalike.access.key import new_key
from lookalike.access.open_store import open_key_store
from lookalike.client import AsyncClient
from lookalike.errors import OperatorError, Unauthenticated
from tests.redis_servers import RedisServer
from tests.rpc.gateways import scripted_system

SOON_S = 10.0


async def until(succeeds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(SOON_S):
        while not await succeeds():  # noqa: ASYNC110  # it asks another process
            await asyncio.sleep(0.05)


async def test_keys_go_on_while_redis_is_down_and_changes_are_seen_when_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(followed_keys, "REFRESH_S", 0.1)
    key, token = new_key("shop", frozenset({"search"}), now_s=0)
    with RedisServer(tmp_path) as redis:
        store = open_key_store(redis.url)
        store.put(key)
        async with scripted_system(keys=redis.url) as system, AsyncClient(system.address, api_key=token) as client:
            redis.kill()

            async def is_told() -> bool:
                return "the API keys cannot be read" in caplog.text

            await until(is_told)
            await client.search(product_id="p01")
            redis.start()
            open_key_store(redis.url).remove(key.id)

            async def is_refused() -> bool:
                try:
                    await client.search(product_id="p01")
                except Unauthenticated:
                    return True
                return False

            await until(is_refused)


async def test_a_gateway_does_not_start_while_its_keys_cannot_be_read() -> None:
    with pytest.raises(OperatorError, match="API keys"):
        async with scripted_system(keys="redis://127.0.0.1:1"):
            pass
