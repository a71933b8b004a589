"""What somebody asked by photo or text is neither stored nor logged: docs/data-protection.md."""

from __future__ import annotations

import asyncio
import io
import logging

import grpc
import grpc.aio
import numpy as np
import pytest
from PIL import Image
from redis import Redis

from lookalike.errors import Unavailable
from lookalike.v1.search_pb2 import BatchSearchRequest, Example, SearchRequest
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from tests.rpc.gateways import ScriptedSystem, scripted_system

WORD = "zanzibar"
TEXT = f"p03 p08 {WORD}"


def noise() -> bytes:
    """A photo like no other."""
    file = io.BytesIO()
    pixels = np.random.default_rng(5).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


async def ask(system: ScriptedSystem) -> int:
    """Ask for the text and the photo in every way; return how many calls failed."""
    text, photo = Example(text=TEXT), Example(image=noise())
    requests = [
        SearchRequest(examples=[text], space=SPACE_TEXT),
        SearchRequest(examples=[text], space=SPACE_TEXT, explain=True),
        SearchRequest(examples=[photo], space=SPACE_IMAGE),
        SearchRequest(examples=[photo], space=SPACE_IMAGE, explain=True),
    ]
    calls = [system.search.Search(request) for request in requests]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    await system.search.BatchSearch(BatchSearchRequest(requests=requests))
    assert all(isinstance(answer, grpc.aio.AioRpcError) for answer in answers if isinstance(answer, BaseException))
    return sum(isinstance(answer, BaseException) for answer in answers)


async def test_redis_has_nothing_of_a_photo_or_text(redis_url: str) -> None:
    async with scripted_system(redis=redis_url, cache_timeout_s=2) as system:
        assert not await ask(system)
        request = SearchRequest(examples=[Example(text=TEXT)], space=SPACE_TEXT)
        while not (await system.search.Search(request)).provenance.cached:  # noqa: ASYNC110  # Redis changes it
            await asyncio.sleep(0.01)
        with Redis.from_url(redis_url) as redis:
            stored = {key: redis.get(key) for key in redis.scan_iter()}
    assert len(stored) >= 3
    photo = noise()
    for part in (WORD.encode(), photo[:16], photo[-64:-16]):
        assert all(part not in key and part not in value for key, value in stored.items())


async def test_logs_have_nothing_of_a_photo_or_text_whatever_fails(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    async with scripted_system(cache_ttl_s=0) as system:
        assert not await ask(system)
        system.text_encoder.error = Unavailable("down")
        assert await ask(system) == 2
        system.text_encoder.error = None
        for shard in system.shards:
            shard.error = Unavailable("down")
        assert await ask(system) == 4
    assert caplog.records
    assert WORD not in caplog.text
    assert repr(noise()[-64:-16])[2:-1] not in caplog.text
