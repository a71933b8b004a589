"""Calls that run beside each other: their results, and that none is left behind."""

from __future__ import annotations

import asyncio

import pytest

from lookalike.errors import Unavailable
from lookalike.runtime.concurrently import run_concurrently


async def value(number: int) -> int:
    await asyncio.sleep(0)
    return number


class Waiting:
    """A call that waits until it is cancelled, and takes a moment to end."""

    def __init__(self) -> None:
        self.started, self.ended = asyncio.Event(), False

    async def __call__(self) -> int:
        self.started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            self.ended = True
        return 0


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_the_results_are_in_the_order_of_the_calls(count: int) -> None:
    assert await run_concurrently(value(i) for i in range(count)) == [*range(count)]


async def test_when_one_fails_the_others_have_ended_before_its_error_is_raised_alone() -> None:
    waiting = [Waiting(), Waiting()]

    async def fail() -> int:
        await waiting[1].started.wait()
        raise Unavailable("first")

    with pytest.raises(Unavailable, match="first"):
        await run_concurrently([waiting[0](), fail(), waiting[1]()])
    assert [each.ended for each in waiting] == [True, True]


async def test_when_the_caller_is_cancelled_all_are() -> None:
    waiting = [Waiting(), Waiting()]
    task = asyncio.ensure_future(run_concurrently([each() for each in waiting]))
    await waiting[1].started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [each.ended for each in waiting] == [True, True]
