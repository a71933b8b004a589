"""A worker on a stream in memory: order, retries, dead letters, what it leaves to others."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random

from lookalike.changes import remove_change, upsert_change
from lookalike.stream import event as events
from lookalike.stream.memory_stream import MemoryStream
from lookalike.stream.product_stream import EventState
from lookalike.v1.event_pb2 import ProductEvent
from lookalike.v1.types_pb2 import Product
from pipeline.worker.event_handler import Outcome
from pipeline.worker.failures import POLICIES, PhotoUnusable, Poison, Retry, RetryCause, RetryPolicy
from pipeline.worker.worker import HandleEvent, Worker, WorkerOptions

GROUP = "workers"
FAST = {
    cause: RetryPolicy(attempts=each.attempts, first_pause_s=0.001, max_pause_s=0.01)
    for cause, each in POLICIES.items()
}


def event(product_id: str, revision: int = 1) -> ProductEvent:
    change = upsert_change(Product(id=product_id, category="c"), revision=revision, allow_unfindable=True)
    return events.new_event(change, source="test", published_at_s=1.0)


class Handler:
    """Handles events as told; remembers in which order it made which."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.without_photo: set[str] = set()
        self.failures: dict[tuple[str, int], list[Exception]] = defaultdict(list)  # Before the first success.
        self.hold: dict[str, asyncio.Event] = {}  # Of products that are held until it is set.
        self.active = self.most_active = 0

    async def __call__(self, event: ProductEvent, *, with_photo: bool = True) -> Outcome:
        key = (product_id, _) = events.product_id_of(event.change), events.revision_of(event.change)
        self.active += 1
        self.most_active = max(self.most_active, self.active)
        try:
            await asyncio.sleep(0)
            if product_id in self.hold:
                await self.hold[product_id].wait()
            if self.failures[key] and not (isinstance(self.failures[key][0], PhotoUnusable) and not with_photo):
                raise self.failures[key].pop(0)
        finally:
            self.active -= 1
        if not with_photo:
            self.without_photo.add(product_id)
        self.made.append(key)
        return Outcome.APPLIED


@asynccontextmanager
async def working(
    stream: MemoryStream, handle: HandleEvent, name: str = "worker", **options: int
) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Run a worker; yields what stops it as SIGTERM does."""
    stopping = asyncio.Event()
    worker = Worker(
        stream.consumer(GROUP, name), handle, WorkerOptions(policies=FAST, drain_s=1.0, **options), random=Random(0)
    )
    task = asyncio.create_task(worker.run(stopping))

    async def stop() -> None:
        stopping.set()
        await asyncio.wait_for(task, 5)

    try:
        yield stop
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110  # The worker's tasks change it.
            await asyncio.sleep(0.005)


async def until_done(stream: MemoryStream) -> None:
    async with asyncio.timeout(10):
        while (await stream.status(GROUP)).lag:  # noqa: ASYNC110  # The worker's tasks change it.
            await asyncio.sleep(0.005)


async def test_events_of_a_product_are_made_in_their_order_and_one_that_waits_holds_up_no_other_product() -> None:
    stream, handler = MemoryStream(4), Handler()
    handler.failures["a", 1] = [Retry(RetryCause.GATEWAY, "away") for _ in range(8)]
    await stream.append([event("a", 1), event("a", 2), event("b", 1), event("a", 3)])
    async with working(stream, handler):
        await until_done(stream)
    assert handler.made[0] == ("b", 1)
    assert [key for key in handler.made if key[0] == "a"] == [("a", 1), ("a", 2), ("a", 3)]
    assert not await stream.dead_letters()


async def test_an_event_that_can_never_succeed_is_a_dead_letter_and_the_next_of_its_product_is_made() -> None:
    stream, handler = MemoryStream(4), Handler()
    handler.failures["a", 1] = [Poison("category: is missing")]
    handles = await stream.append([event("a", 1), event("a", 2)])
    async with working(stream, handler):
        await until_done(stream)
    assert handler.made == [("a", 2)]
    (letter,) = await stream.dead_letters()
    assert (letter.handle, letter.reason, letter.attempts) == (handles[0], "category: is missing", 1)
    states = [status.state for status in await stream.statuses(GROUP, handles)]
    assert states == [EventState.DEAD, EventState.DONE]


async def test_a_photo_that_will_not_be_had_makes_a_dead_letter_beside_the_change_without_it() -> None:
    stream, handler = MemoryStream(4), Handler()
    handler.failures["gone", 1] = [PhotoUnusable("not found: 404")]
    handler.failures["slow", 1] = [
        Retry(RetryCause.PHOTO, "timed out") for _ in range(FAST[RetryCause.PHOTO].attempts or 0)
    ]
    handler.failures["late", 1] = [Retry(RetryCause.PHOTO, "timed out"), Retry(RetryCause.PHOTO, "timed out")]
    await stream.append([event("gone"), event("slow"), event("late")])
    async with working(stream, handler):
        await until_done(stream)
    assert sorted(handler.made) == [("gone", 1), ("late", 1), ("slow", 1)]
    assert handler.without_photo == {"gone", "slow"}
    letters = {
        events.product_id_of(letter.event.change): letter for letter in await stream.dead_letters() if letter.event
    }
    assert {product_id: letter.reason for product_id, letter in letters.items()} == {
        "gone": "not found: 404; the change was made without the photo",
        "slow": "photo: timed out; the change was made without the photo",
    }
    assert letters["slow"].attempts == 6


async def test_what_the_system_lacks_is_waited_for_without_end_and_a_bug_is_not() -> None:
    stream, handler = MemoryStream(4), Handler()
    handler.failures["patient", 1] = [Retry(RetryCause.MODEL_SERVER, "down") for _ in range(50)]
    handler.failures["bug", 1] = [ZeroDivisionError() for _ in range(50)]
    await stream.append([event("patient"), event("bug")])
    async with working(stream, handler):
        await until_done(stream)
    assert handler.made == [("patient", 1)]
    (letter,) = await stream.dead_letters()
    assert (letter.reason, letter.attempts) == ("bug: ZeroDivisionError, see the worker's log", 5)


async def test_no_more_than_its_bounds_is_active_or_in_memory() -> None:
    stream, handler = MemoryStream(4), Handler()
    release = asyncio.Event()
    handler.hold = {f"p{number}": release for number in range(100)}
    await stream.append([event(f"p{number}") for number in range(100)])
    worker = Worker(
        stream.consumer(GROUP, "worker"), handler, WorkerOptions(max_active=3, max_held=20), random=Random(0)
    )
    stopping = asyncio.Event()
    task = asyncio.create_task(worker.run(stopping))
    await until(lambda: worker.held == 20)
    await asyncio.sleep(0.05)
    assert (worker.held, handler.active) == (20, 3)
    release.set()
    await until_done(stream)
    stopping.set()
    await task
    assert (len(handler.made), handler.most_active) == (100, 3)


async def test_on_a_signal_what_is_handled_is_finished_and_what_waits_is_left_to_the_next_worker() -> None:
    stream, handler = MemoryStream(4), Handler()
    release = asyncio.Event()
    handler.hold["active"] = release
    handler.failures["waits", 1] = [Retry(RetryCause.PHOTO, "pause", retry_after_s=1000)]
    handles = await stream.append([event("active"), event("waits"), event("waits", 2)])
    async with working(stream, handler) as stop:
        await until(lambda: handler.active == 1 and not handler.failures["waits", 1])
        stopped = asyncio.ensure_future(stop())
        await asyncio.sleep(0.05)
        release.set()
        await stopped
    assert handler.made == [("active", 1)]
    states = [status.state for status in await stream.statuses(GROUP, handles)]
    assert states == [EventState.DONE, EventState.PENDING, EventState.PENDING]
    async with working(stream, handler):
        await until_done(stream)
    assert handler.made[1:] == [("waits", 1), ("waits", 2)]


async def test_events_of_a_worker_that_died_are_made_by_another() -> None:
    stream, dead, alive = MemoryStream(4, lease_s=0.2), Handler(), Handler()
    dead.hold = {f"p{number}": asyncio.Event() for number in range(20)}
    await stream.append([event(f"p{number}") for number in range(20)])
    async with working(stream, dead, "dead"):
        await until(lambda: dead.active == 20)
        for consumer_task in [task for task in asyncio.all_tasks() if "_beat_until" in repr(task.get_coro())]:
            consumer_task.cancel()  # As by kill -9: its leases are not renewed any more.
        async with working(stream, alive, "alive"):
            await until_done(stream)
    assert len(alive.made) == 20
    assert not dead.made


async def test_partitions_move_to_a_worker_that_joins_and_every_event_is_made_in_order() -> None:
    stream, handler = MemoryStream(8, lease_s=0.2), Handler()
    products = [f"p{number}" for number in range(40)]
    async with working(stream, handler, "first") as stop_first:
        await stream.append([event(product_id, 1) for product_id in products])
        await until(lambda: len(handler.made) > 10)
        async with working(stream, handler, "second"):
            for revision in range(2, 12):
                await stream.append([event(product_id, revision) for product_id in products])
                await asyncio.sleep(0.03)
            await stop_first()
            await until_done(stream)
    for product_id in products:
        newest, made = 0, [revision for each, revision in handler.made if each == product_id]
        for revision in made:
            assert revision <= newest + 1  # None is passed over; one may be made again.
            newest = max(newest, revision)
        assert newest == 11


async def test_removals_are_events_of_their_product() -> None:
    stream, handler = MemoryStream(4), Handler()
    handler.failures["a", 1] = [Retry(RetryCause.GATEWAY, "away")]
    removal = events.new_event(remove_change("a", revision=2), source="test", published_at_s=1.0)
    await stream.append([event("a"), removal])
    async with working(stream, handler):
        await until_done(stream)
    assert handler.made == [("a", 1), ("a", 2)]
