"""Whatever stands in Redis, in place of cached answers and of events, costs a cache hit, or is a dead letter."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example
from hypothesis import strategies as st

from encoders.clients import EncodedVector
from lookalike.errors import InvalidRequest
from lookalike.runtime.product_fields import check_product_id
from lookalike.stream import event as events
from lookalike.stream.product_stream import Handle
from lookalike.v1.catalog_pb2 import Change, ChangeResponse
from lookalike.v1.event_pb2 import ProductEvent
from pipeline.worker.event_handler import EventHandler
from pipeline.worker.failures import PhotoUnusable, Poison, Retry, RetryCause
from server.redis_result_cache import RedisResultCache
from tests.conftest import running_redis
from tests.fuzz.budget import OUTCOMES, fuzz
from tests.fuzz.mutations import damaged
from tests.fuzz.wire import Hints, messages

GREATEST_REVISION = 2**50
EVENTS = messages(
    ProductEvent.DESCRIPTOR,
    Hints(
        {
            "lookalike.v1.Product.id": st.sampled_from((b"p1", b"p2")),
            "lookalike.v1.Product.image": st.sampled_from((b"images/1.jpg", b"https://example.com/1.jpg", b"../1.jpg")),
            "lookalike.v1.UpsertRequest.encode": st.just(b"\1"),
            "lookalike.v1.UpsertRequest.revision": st.just(b"\x07"),
        },
        frozenset(
            ("lookalike.v1.ProductEvent.change", "lookalike.v1.Change.upsert", "lookalike.v1.UpsertRequest.product")
        ),
    ),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running_redis() as (url, _):
        yield url


VALUE = b"an answer" * 20


@fuzz(60, data=st.data())
def test_a_cached_value_is_the_one_that_was_put_or_is_not_found(url: str, data: Any) -> None:
    async def run() -> None:
        cache = RedisResultCache(url, ttl_s=60, timeout_s=20)
        try:
            cache.put("key", VALUE)
            while await cache.get("key") is None:  # It is stored behind the caller's back.
                continue
            key = cache._prefix + "key"
            stored: Any = await cache._redis.get(key)
            await cache._redis.set(key, data.draw(damaged(stored)))
            if data.draw(st.booleans()):  # Another type than a string.
                await cache._redis.delete(key)
                await cache._redis.rpush(key, "x")
            assert await cache.get("key") in (None, VALUE)
            await cache._redis.delete(key)
        finally:
            await cache.close()

    asyncio.run(run())


@fuzz(200, payload=EVENTS)
@example(payload=b"\n\x1a\n\x18\n\x12\n\x02p1J\x0cimages/1.jpg\x10\x07 \x01(\xff\xff\xff\xff\x0f")  # Replays: full
def test_an_event_is_handled_retried_or_poison(payload: bytes) -> None:
    if (event := events.decode(payload)) is None:
        OUTCOMES["events refused"] += 1
        return
    assert events.product_id_of(event.change)

    async def write(change: Change) -> ChangeResponse:
        check_product_id("product.id", events.product_id_of(change))
        events.check_change(change, GREATEST_REVISION)
        return ChangeResponse(applied=True)

    async def encode(image: str, root: str) -> EncodedVector:
        raise Retry(RetryCause.ENCODER, f"{image!r} of {root!r}")

    handler = EventHandler(write, _Encoder(encode))
    for with_photo in (True, False):
        try:
            asyncio.run(handler(event, with_photo=with_photo))
            OUTCOMES["events handled"] += 1
        except (Poison, Retry, PhotoUnusable) as error:
            OUTCOMES[f"events {type(error).__name__}"] += 1
    again = events.replayed("1-0", event, 1.0)
    assert again.replays == min(event.replays + 1, 2**32 - 1)


class _Encoder:
    def __init__(self, encode: Any) -> None:
        self._encode = encode

    async def __call__(self, image: str, root: str) -> EncodedVector:
        vector: EncodedVector = await self._encode(image, root)
        return vector

    def forget_encoder(self) -> None:
        """There is none to ask."""


@fuzz(100, change=messages(Change.DESCRIPTOR, Hints({"lookalike.v1.Product.id": st.just(b"p")}, frozenset())))
def test_a_change_keeps_the_rules_or_breaks_them_by_name(change: bytes) -> None:
    try:
        parsed = Change.FromString(change)
    except DecodeError:
        return
    try:
        events.check_change(parsed, GREATEST_REVISION)
    except InvalidRequest as error:
        assert error.field  # noqa: PT017  # half of the changes are fine
    else:
        # What is stored is a fixed point: the rules change it no more.
        before = parsed.SerializeToString(deterministic=True)
        events.check_change(parsed, GREATEST_REVISION)
        assert parsed.SerializeToString(deterministic=True) == before


@fuzz(100, text=st.one_of(st.text(max_size=40), st.from_regex(r"\w{0,20}[:.-]-?\d{0,20}[:.-]\d{0,20}-\d{0,20}")))
def test_a_handle_is_read_or_refused(text: str) -> None:
    try:
        handle = Handle.parse(text)
    except InvalidRequest:
        return
    assert Handle.parse(str(handle)) == handle
