"""Calls that run beside each other and end together. No I/O of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Iterable
from typing import Any, TypeVar

Result = TypeVar("Result")


async def run_concurrently(coroutines: Iterable[Coroutine[Any, Any, Result]]) -> list[Result]:
    """The results of all, in order. When one fails, the others are cancelled, and its error is raised once they ended.

    With `asyncio.gather` they would go on, for nobody; a TaskGroup's errors come in a group. A single coroutine, the
    common case, is awaited without a task of its own, which is faster.
    """
    calls = [*coroutines]
    if len(calls) == 1:
        return [await calls[0]]
    tasks = [asyncio.ensure_future(call) for call in calls]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()  # No effect on those that are done.
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
