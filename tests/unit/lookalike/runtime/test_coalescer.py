"""The coalescer: batching of requests that wait for a free call slot."""

from __future__ import annotations

import asyncio

import pytest

from lookalike.errors import DeadlineExceeded, Overloaded
from lookalike.runtime.coalescer import Coalescer
from lookalike.runtime.deadline import Deadline

NEVER = Deadline.after(None)


class Sender:
    """Replies to each item with ten times the item, once the gate is open; records its batches."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()

    async def __call__(self, items: list[int]) -> list[int | Exception]:
        self.batches.append(items)
        await self.gate.wait()
        return [ValueError(f"no {item}") if item < 0 else item * 10 for item in items]


async def submit(coalescer: Coalescer[int, int], *items: int) -> list[asyncio.Task[int]]:
    tasks = [asyncio.ensure_future(coalescer(item, NEVER)) for item in items]
    for _ in range(4):  # The tasks submit, the batch starts, its call is made.
        await asyncio.sleep(0)
    return tasks


async def test_while_a_slot_is_free_the_items_of_one_pass_of_the_event_loop_are_sent_at_its_end() -> None:
    sender = Sender()
    coalescer = Coalescer(sender, max_in_flight=2, max_batch=8, max_waiting=8)
    tasks = [*await submit(coalescer, 1, 2), *await submit(coalescer, 3), *await submit(coalescer, 4)]
    assert sender.batches == [[1, 2], [3]]
    sender.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40]
    assert sender.batches == [[1, 2], [3], [4]]


async def test_items_that_wait_for_a_slot_are_sent_together_up_to_the_batch_limit() -> None:
    sender = Sender()
    coalescer = Coalescer(sender, max_in_flight=1, max_batch=3, max_waiting=8)
    tasks = [*await submit(coalescer, 1), *await submit(coalescer, 2, 3, 4, 5)]
    sender.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40, 50]
    assert sender.batches == [[1], [2, 3, 4], [5]]


async def test_the_number_of_calls_in_flight_may_change() -> None:
    sender, most = Sender(), 1
    coalescer = Coalescer(sender, max_in_flight=lambda: most, max_batch=3, max_waiting=8)
    tasks = [*await submit(coalescer, 1), *await submit(coalescer, 2)]
    assert sender.batches == [[1]]
    most = 2
    tasks += await submit(coalescer, 3)
    assert sender.batches == [[1], [2, 3]]
    most = 1
    tasks += await submit(coalescer, 4)
    assert sender.batches == [[1], [2, 3]]
    sender.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 40]


async def test_beyond_the_waiting_limit_an_item_is_refused_at_once() -> None:
    sender = Sender()
    coalescer = Coalescer(sender, max_in_flight=1, max_batch=3, max_waiting=2)
    tasks = [*await submit(coalescer, 1), *await submit(coalescer, 2, 3)]
    with pytest.raises(Overloaded):
        await coalescer(4, NEVER)
    sender.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30]


async def test_the_waiting_limit_holds_within_one_pass_of_the_event_loop() -> None:
    sender = Sender()
    coalescer = Coalescer(sender, max_in_flight=1, max_batch=3, max_waiting=2)
    outcomes = asyncio.gather(*(coalescer(item, NEVER) for item in range(6)), return_exceptions=True)
    await asyncio.sleep(0)
    sender.gate.set()
    assert [type(outcome) for outcome in await outcomes] == [int] * 5 + [Overloaded]


async def test_an_error_of_one_item_does_not_affect_the_others() -> None:
    sender = Sender()
    sender.gate.set()
    coalescer = Coalescer(sender, max_in_flight=1, max_batch=8, max_waiting=8)
    replies = await asyncio.gather(*(coalescer(item, NEVER) for item in (1, -2, 3)), return_exceptions=True)
    assert (replies[0], str(replies[1]), replies[2]) == (10, "no -2", 30)


async def test_a_deadline_ends_the_wait_and_an_abandoned_item_is_not_sent() -> None:
    sender = Sender()
    coalescer = Coalescer(sender, max_in_flight=1, max_batch=8, max_waiting=8)
    (first,) = await submit(coalescer, 1)
    with pytest.raises(DeadlineExceeded):
        await coalescer(2, Deadline.after(0.01))
    sender.gate.set()
    assert await first == 10
    assert await coalescer(3, NEVER) == 30
    assert sender.batches == [[1], [3]]


async def test_sizes_count_towards_the_batch_limit_and_a_larger_item_is_sent_alone() -> None:
    sender = Sender()
    coalescer = Coalescer(sender, max_in_flight=1, max_batch=5, max_waiting=100, size=lambda item: item)
    tasks = await submit(coalescer, 1, 2, 3, 9)
    sender.gate.set()
    assert await asyncio.gather(*tasks) == [10, 20, 30, 90]
    assert sender.batches == [[1, 2], [3], [9]]
