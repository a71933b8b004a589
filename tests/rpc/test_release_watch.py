"""The watch over a real gateway with its metrics page, whose shards take a release that is bad."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress

import grpc.aio
import pytest
from prometheus_client import REGISTRY, generate_latest

from lookalike.errors import Unavailable
from lookalike.v1.search_pb2 import Example, SearchRequest
from pipeline.release_comparison import Bounds
from pipeline.release_watch import Baseline, Outcome, WatchSettings, WatchVerdict, page_reader, watch_release
from tests.rpc.gateways import ScriptedSystem, scripted_system
from tests.unit.pipeline.gateway_pages import serving_page

CALLS = 300


@pytest.fixture
def metrics() -> Iterator[str]:
    with serving_page(lambda: generate_latest(REGISTRY).decode()) as (port, _):
        yield f"http://127.0.0.1:{port}/metrics"


async def call(system: ScriptedSystem) -> None:
    for start in range(0, CALLS, 10):
        requests = [SearchRequest(examples=[Example(product_id=f"p{(start + i) % 17:02}")]) for i in range(10)]
        with suppress(grpc.aio.AioRpcError):
            await asyncio.gather(*map(system.search.Search, requests))


async def watched(metrics: str, *, fault: bool) -> WatchVerdict:
    # Latency is not what the fault changes, and this machine's varies.
    settings = WatchSettings(metrics=(metrics,), watch_s=3.0, interval_s=1.0, bounds=Bounds(latency_floor_s=10.0))
    read = page_reader(settings)
    time_s = 0.0
    async with scripted_system(cache_ttl_s=0.0) as system:

        async def pinned() -> list[str]:
            return [labels["version"] for labels in (await read()).pages[metrics].labels_of("lookalike_release")]

        async def until_moved(version: str) -> None:
            async with asyncio.timeout(30):
                while await pinned() != [version]:  # noqa: ASYNC110  # No event follows a page.
                    await asyncio.sleep(0.02)

        async def sleep(seconds: float) -> None:
            nonlocal time_s
            time_s += seconds
            if time_s == 1.0:
                for shard in system.shards:
                    shard.version = "v2"
                await until_moved("v2")
                if fault:
                    system.shards[1].error = Unavailable("a bad release")
            await call(system)

        await until_moved("v1")
        start = await read()
        await call(system)
        baseline = Baseline(start=start, end=await read())
        return await watch_release(settings, baseline, "v2", clock=lambda: time_s, sleep=sleep)


async def test_a_release_that_is_as_good_as_the_one_before_is_ok(metrics: str) -> None:
    verdict = await watched(metrics, fault=False)
    assert (verdict.outcome, verdict.reasons) == (Outcome.OK, ())
    assert {finding.figure for finding in verdict.findings if finding.within} >= {
        "Search: server errors",
        "answers without a hit",
    }


async def test_a_shard_that_fails_once_the_gateway_has_moved_is_seen_and_named(metrics: str) -> None:
    verdict = await watched(metrics, fault=True)
    assert verdict.outcome is Outcome.OUT_OF_BOUNDS
    assert any(
        reason.startswith(("answers degraded by shard_missing: 0.00%", "Search: UNAVAILABLE: 0.00%"))
        for reason in verdict.reasons
    )
