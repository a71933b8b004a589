"""A host is asked by a bounded number at a time, and left alone when it asks for that."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.fetching.failures import FetchCause, FetchError
from pipeline.fetching.hosts import HostLimits


async def test_no_more_than_a_bound_fetch_from_one_host_and_others_are_not_held_up() -> None:
    limits, leave, inside = HostLimits(4, 2), asyncio.Event(), list[str]()

    async def fetch(host: str) -> None:
        async with limits.permit(host):
            inside.append(host)
            await leave.wait()

    tasks = [asyncio.create_task(fetch(host)) for host in ["slow"] * 9 + ["other"]]
    await asyncio.sleep(0.01)
    assert sorted(inside) == ["other", "slow", "slow"]
    leave.set()
    await asyncio.gather(*tasks)
    assert inside.count("slow") == 9


async def test_a_paused_host_is_refused_with_what_is_left_of_the_pause_also_to_those_that_waited() -> None:
    now = [100.0]
    limits, waiting = HostLimits(4, 1, now_s=lambda: now[0]), []

    async def wait() -> None:
        async with limits.permit("shop"):
            pass

    async with limits.permit("shop"):
        waiting.append(asyncio.create_task(wait()))
        await asyncio.sleep(0)
        limits.pause("shop", 30)
    for task in (*waiting, asyncio.create_task(wait())):
        with pytest.raises(FetchError) as error:
            await task
        assert (error.value.cause, error.value.retry_after_s) == (FetchCause.BUSY, 30)
    now[0] += 31
    await wait()


async def test_hosts_that_nobody_asks_any_more_are_forgotten() -> None:
    limits = HostLimits(4, 1)
    for number in range(5000):
        async with limits.permit(f"host-{number}"):
            pass
    assert len(limits._hosts) == 4096
