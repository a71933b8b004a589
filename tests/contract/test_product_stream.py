"""The behaviour of every stream of product events: in memory, and in a real Redis that persists."""

from __future__ import annotations

import asyncio
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

from lookalike.changes import patch_change, remove_change, upsert_change
from lookalike.errors import InvalidRequest, NotFound, Overloaded
from lookalike.stream import event as events
from lookalike.stream.consumer import LeasedConsumer
from lookalike.stream.memory_stream import MemoryStream
from lookalike.stream.partition_log import Read
from lookalike.stream.product_stream import (
    Batch,
    Consumer,
    EventState,
    Handle,
    ProductStream,
    Record,
)
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.v1.catalog_pb2 import Change
from lookalike.v1.event_pb2 import ProductEvent
from lookalike.v1.types_pb2 import Product
from tests.redis_servers import RedisServer

GROUP = "workers"
PARTITIONS = 4
HEARTBEAT_S = 0.02
LEASE_S = 60.0  # No test that is not about leases waits for one, or loses one where the machine is slow.
SHORT_LEASE_S = 2.0

Open = Callable[..., Awaitable[ProductStream]]


@pytest.fixture(scope="module")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(params=["memory", "redis"])
async def open_stream(request: pytest.FixtureRequest) -> AsyncIterator[Open]:
    """Opens streams of one backend, each empty, with bounds as keyword arguments."""
    opened: list[ProductStream] = []

    async def open_(*, max_events: int = 1000, lease_s: float = LEASE_S) -> ProductStream:
        if request.param == "memory":
            stream: ProductStream = MemoryStream(
                PARTITIONS, max_events=max_events, lease_s=lease_s, heartbeat_s=HEARTBEAT_S
            )
        else:
            url = request.getfixturevalue("redis_server").url
            stream = await open_redis_stream(
                StreamSettings(
                    url=url,
                    prefix=f"test:{secrets.token_hex(4)}",
                    partitions=PARTITIONS,
                    max_events=max_events,
                    lease_s=lease_s,
                    heartbeat_s=HEARTBEAT_S,
                )
            )
        opened.append(stream)
        return stream

    yield open_
    for stream in opened:
        await stream.close()


@pytest.fixture
async def stream(open_stream: Open) -> ProductStream:
    return await open_stream()


def change_of(product_id: str, revision: int = 1) -> Change:
    return upsert_change(Product(id=product_id, title=f"{product_id}", category="c"), revision=revision, encode=True)


def event_of(product_id: str, revision: int = 1) -> ProductEvent:
    return events.new_event(change_of(product_id, revision), source="test", published_at_s=1.0)


def some_events(count: int, start: int = 0) -> list[ProductEvent]:
    return [event_of(f"p{i}") for i in range(start, start + count)]


def ids_of(records: Sequence[Record]) -> list[str]:
    return [events.product_id_of(record.event.change) for record in records]


async def poll(consumer: Consumer, *, max_records: int = 100, max_bytes: int = 1 << 20, wait_s: float = 0.05) -> Batch:
    return await consumer.poll(max_records=max_records, max_bytes=max_bytes, wait_s=wait_s)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  # What changes is inside what is tested.
            await asyncio.sleep(0.01)


async def until_held(consumer: Consumer, count: int) -> None:
    await until(lambda: len(consumer.partitions) == count)


async def stop_heart(consumer: Consumer) -> None:
    assert isinstance(consumer, LeasedConsumer)
    consumer._closed = True
    consumer._beat_now.set()
    assert consumer._heart is not None
    await consumer._heart


async def take(consumer: Consumer, count: int) -> list[Record]:
    """Poll until so many records have come, and no others."""
    records: list[Record] = []
    async with asyncio.timeout(20):
        while len(records) < count:
            records += (await poll(consumer)).records
    assert len(records) == count
    return records


@asynccontextmanager
async def only_consumer(stream: ProductStream, group: str = GROUP) -> AsyncIterator[Consumer]:
    async with stream.consumer(group, "w") as consumer:
        await until_held(consumer, stream.partitions)
        yield consumer


async def states(stream: ProductStream, handles: Sequence[Handle]) -> list[EventState]:
    return [each.state for each in await stream.statuses(GROUP, handles)]


async def test_appended_events_are_delivered_once_each_in_the_order_of_their_product(stream: ProductStream) -> None:
    appended = [event_of(f"p{i % 7}", revision=i + 1) for i in range(70)]
    handles = await stream.append(appended)
    async with only_consumer(stream) as consumer:
        records = await take(consumer, 70)
        assert (await poll(consumer)).records == []
    assert sorted(map(str, handles)) == sorted(str(record.handle) for record in records)
    revisions: dict[str, list[int]] = defaultdict(list)
    for record, product_id in zip(records, ids_of(records), strict=True):
        revisions[product_id].append(events.revision_of(record.event.change))
    assert sorted(revisions) == [f"p{i}" for i in range(7)]
    assert all(each == sorted(each) for each in revisions.values())
    assert {record.deliveries for record in records} == {1}


async def test_an_event_is_delivered_as_it_was_appended(stream: ProductStream) -> None:
    changes = [change_of("p"), patch_change("q", revision=5, price=3.5), remove_change("r", revision=7)]
    appended = [
        events.new_event(change, source="a file", published_at_s=12.5, photo_root="/photos") for change in changes
    ]
    await stream.append(appended)
    async with only_consumer(stream) as consumer:
        delivered = [record.event for record in await take(consumer, 3)]
    for event in appended:
        assert event in delivered


async def test_events_of_one_product_are_in_one_partition(stream: ProductStream) -> None:
    handles = await stream.append([event_of("p", revision) for revision in range(1, 9)])
    assert len({handle.partition for handle in handles}) == 1
    assert len({handle.partition for handle in await stream.append(some_events(60))}) == PARTITIONS


async def test_what_is_not_acked_is_delivered_first_to_the_next_holder_and_counted(stream: ProductStream) -> None:
    await stream.append([event_of("p", revision) for revision in range(1, 5)])
    async with only_consumer(stream) as consumer:
        first, *_ = await take(consumer, 4)
        await consumer.ack([first])
    await stream.append([event_of("p", 5)])
    async with only_consumer(stream) as consumer:
        records = await take(consumer, 4)
    assert [events.revision_of(record.event.change) for record in records] == [2, 3, 4, 5]
    assert [record.deliveries for record in records] == [2, 2, 2, 1]


async def test_a_consumer_that_dies_loses_its_partitions_to_another_after_the_lease(open_stream: Open) -> None:
    stream = await open_stream(lease_s=SHORT_LEASE_S)
    await stream.append(some_events(20))
    dead = stream.consumer(GROUP, "dead")
    await dead.__aenter__()
    await until_held(dead, PARTITIONS)
    records = await take(dead, 20)
    await stop_heart(dead)  # It dies as a killed process does: nothing is released.
    async with stream.consumer(GROUP, "heir") as heir:
        again = await take(heir, 20)
        assert sorted(ids_of(again)) == sorted(ids_of(records))
        assert not any(dead.holds(record) for record in records)
        assert await dead.ack(records) == records
        assert (await stream.status(GROUP)).lag == 20
        assert not await dead.park(records[0], reason="late", attempts=1)
        assert set((await poll(dead)).lost) <= set(range(PARTITIONS))
        assert await heir.ack(again) == []
    assert (await stream.status(GROUP)).lag == 0


async def test_a_consumer_that_was_suspended_is_told_what_it_lost(open_stream: Open) -> None:
    stream = await open_stream(lease_s=SHORT_LEASE_S)
    await stream.append(some_events(20))
    slow = stream.consumer(GROUP, "slow")
    async with slow:
        await until_held(slow, PARTITIONS)
        held = {*slow.partitions}
        assert set((await poll(slow)).gained) == held
        await stop_heart(slow)  # No renewal any more, as in a stopped process.
        async with stream.consumer(GROUP, "other") as other:
            await take(other, 20)
            slow._closed = False  # type: ignore[attr-defined]
            slow._heart = asyncio.create_task(slow._beat_until_closed())  # type: ignore[attr-defined]
            lost: set[int] = set()
            async with asyncio.timeout(20):
                while lost != held:
                    lost |= set((await poll(slow)).lost)


async def test_partitions_are_shared_among_consumers_as_they_come_and_go(stream: ProductStream) -> None:
    async with stream.consumer(GROUP, "a") as a:
        await until_held(a, 4)
        async with stream.consumer(GROUP, "b") as b:
            await until_held(a, 2)
            await until_held(b, 2)
            assert not {*a.partitions} & {*b.partitions}
            kept = {*a.partitions}
            async with stream.consumer(GROUP, "c") as c:
                await until(lambda: sorted(map(len, (a.partitions, b.partitions, c.partitions))) == [1, 1, 2])
                assert {*a.partitions} <= kept  # No partition moves that need not.
            await until(lambda: (len(a.partitions), len(b.partitions)) == (2, 2))
        await until_held(a, 4)


async def test_a_partition_is_given_up_when_what_was_delivered_of_it_is_acked(stream: ProductStream) -> None:
    await stream.append(some_events(40))
    async with only_consumer(stream) as first:
        records = await take(first, 40)
        async with stream.consumer(GROUP, "second") as second:
            await asyncio.sleep(10 * HEARTBEAT_S)
            assert not second.partitions
            assert len(first.partitions) == 4
            assert await first.ack(records) == []
            await until_held(first, 2)
            await until_held(second, 2)
            await stream.append(some_events(40, start=100))
            mine, others = (await poll(first, wait_s=1)).records, (await poll(second, wait_s=1)).records
            assert sorted(ids_of(mine) + ids_of(others)) == sorted(f"p{i}" for i in range(100, 140))


async def test_a_poll_waits_though_a_partition_that_is_given_up_has_new_events(stream: ProductStream) -> None:
    await stream.append(some_events(40))
    async with only_consumer(stream) as first:
        records = await take(first, 40)
        async with stream.consumer(GROUP, "second"):
            await stream.append(some_events(40, start=100))
            assert isinstance(first, LeasedConsumer)
            await until(lambda: len(first._readable()) == 2)
            await first.ack([record for record in records if record.handle.partition in first._readable()])
            while (await poll(first)).records:
                pass
            reads = 0
            read = first._read

            async def count(max_records: int, max_bytes: int) -> tuple[Sequence[Record], bool]:
                nonlocal reads
                reads += 1
                return await read(max_records, max_bytes)

            first._read = count  # type: ignore[method-assign]  # counts what it passes on
            assert (await poll(first, wait_s=0.5)).records == []
            assert reads < 10


async def test_two_consumers_of_one_name_are_two_members(stream: ProductStream) -> None:
    async with stream.consumer(GROUP, "w") as one, stream.consumer(GROUP, "w") as two:
        await until_held(one, 2)
        await until_held(two, 2)
        assert one.member != two.member
        await stream.append(some_events(40))
        records = [*(await poll(one, wait_s=1)).records, *(await poll(two, wait_s=1)).records]
        assert sorted(ids_of(records)) == sorted(f"p{i}" for i in range(40))


async def test_each_group_has_all_events_for_itself(stream: ProductStream) -> None:
    await stream.append(some_events(10))
    async with only_consumer(stream, "one") as one, only_consumer(stream, "two") as two:
        records = await take(one, 10)
        await one.ack(records)
        assert sorted(ids_of(await take(two, 10))) == sorted(ids_of(records))
    assert (await stream.status("one")).lag == 0
    assert (await stream.status("two")).lag == 10


async def test_a_poll_keeps_to_its_bounds_and_returns_one_record_at_least(stream: ProductStream) -> None:
    appended = some_events(20)
    await stream.append(appended)
    size_bytes = max(event.ByteSize() for event in appended)
    async with only_consumer(stream) as consumer:
        assert len((await poll(consumer, max_records=3)).records) == 3
        batch = await poll(consumer, max_bytes=size_bytes * 4)
        assert 1 < len(batch.records) <= 5
        assert sum(record.size_bytes for record in batch.records[:-1]) < size_bytes * 4
        assert len((await poll(consumer, max_bytes=1)).records) == 1


async def test_a_poll_returns_as_soon_as_an_event_is_appended(stream: ProductStream) -> None:
    async with only_consumer(stream) as consumer:
        await poll(consumer)
        waiting = asyncio.create_task(poll(consumer, wait_s=30))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        await stream.append([event_of("p")])
        assert ids_of((await waiting).records) == ["p"]


async def test_what_a_poll_that_was_cancelled_had_found_is_found_by_the_next(stream: ProductStream) -> None:
    async with only_consumer(stream) as consumer:
        assert isinstance(consumer, LeasedConsumer)
        log = consumer._log
        delivered = asyncio.Event()

        class Slow:
            """Delivers, and is cancelled before the consumer has seen it."""

            def __getattr__(self, name: str) -> object:
                return getattr(log, name)

            async def read(self, *arguments: Any, **bounds: Any) -> Read:
                read = await log.read(*arguments, **bounds)
                if read.entries:
                    delivered.set()
                    await asyncio.sleep(60)
                return read

        consumer._log = Slow()  # type: ignore[assignment]  # passes everything else on
        await stream.append(some_events(9))
        polling = asyncio.create_task(poll(consumer, wait_s=60))
        await delivered.wait()
        polling.cancel()
        await asyncio.gather(polling, return_exceptions=True)
        consumer._log = log
        records = await take(consumer, 9)
        assert await consumer.ack(records) == []
    assert (await stream.status(GROUP)).lag == 0


async def test_no_partition_waits_for_another_with_many_events(stream: ProductStream) -> None:
    busy = (await stream.append([event_of("p", revision) for revision in range(1, 200)]))[0].partition
    other = next(handle for handle in await stream.append(some_events(20)) if handle.partition != busy).partition
    async with only_consumer(stream) as consumer:
        seen: set[int] = set()
        for _ in range(PARTITIONS):
            seen |= {record.handle.partition for record in (await poll(consumer, max_records=10)).records}
    assert {busy, other} <= seen


async def test_a_full_stream_refuses_a_batch_whole_and_says_when_to_retry(open_stream: Open) -> None:
    stream = await open_stream(max_events=10)
    await stream.append(some_events(8))
    with pytest.raises(Overloaded, match="8 events of 10") as refused:
        await stream.append(some_events(3))
    assert refused.value.retry_after_s > 0
    assert (await stream.status(GROUP)).events == 8
    await stream.append(some_events(2))
    async with only_consumer(stream) as consumer:
        await consumer.ack(await take(consumer, 10))
    await stream.trim(older_than_s=-60)
    await stream.append(some_events(10))


async def test_an_event_of_no_product_or_too_large_is_refused_with_its_batch(stream: ProductStream) -> None:
    large = events.new_event(change_of("p"), source="x" * events.MAX_EVENT_BYTES, published_at_s=1.0)
    for bad in (ProductEvent(), large):
        with pytest.raises(InvalidRequest):
            await stream.append([event_of("q"), bad])
    assert (await stream.status(GROUP)).events == 0


async def test_only_what_every_group_has_acked_and_is_old_enough_is_trimmed(stream: ProductStream) -> None:
    await stream.append(some_events(20))
    assert await stream.trim(older_than_s=-60) == 0  # No group has read it.
    async with only_consumer(stream, "one") as one, only_consumer(stream, "two") as two:
        await one.ack(await take(one, 20))
        assert await stream.trim(older_than_s=-60) == 0
        records = await take(two, 20)
        by_partition = {record.handle.partition: record for record in reversed(records)}
        unacked = [*by_partition.values()]  # The first of each partition.
        await two.ack([record for record in records if record not in unacked])
        assert await stream.trim(older_than_s=-60) == 0
        await two.ack(unacked)
        assert await stream.trim(older_than_s=3600) == 0
        assert await stream.trim(older_than_s=-60) == 20
        await stream.append(some_events(5))
        assert len(await take(two, 5)) == 5
    assert (await stream.status("one")).events == 5


async def test_a_parked_record_is_a_dead_letter_and_is_not_delivered_again(stream: ProductStream) -> None:
    (handle, _) = await stream.append([event_of("p"), event_of("q")])
    async with only_consumer(stream) as consumer:
        records = await take(consumer, 2)
        (record,) = [each for each in records if each.handle == handle]
        assert await consumer.park(record, reason="the photo is gone: 404", attempts=3)
        assert await consumer.park(record, reason="again", attempts=4)  # Nothing is parked twice.
        (letter,) = await stream.dead_letters()
        assert (letter.handle, letter.event, letter.group) == (handle, record.event, GROUP)
        assert (letter.reason, letter.attempts) == ("the photo is gone: 404", 3)
        assert letter.parked_at_s >= letter.appended_at_s > 1.6e9
        assert await stream.dead_letter(letter.id) == letter
        assert await states(stream, [handle]) == [EventState.DEAD]
        status = await stream.status(GROUP)
        assert (status.dead_letters, status.lag) == (1, 1)
    async with only_consumer(stream) as consumer:
        assert ids_of(await take(consumer, 1)) == ["q"]


async def test_a_replayed_dead_letter_is_delivered_again_and_its_handle_follows_it(stream: ProductStream) -> None:
    (handle,) = await stream.append([event_of("p", revision=7)])
    async with only_consumer(stream) as consumer:
        (record,) = await take(consumer, 1)
        await consumer.park(record, reason="no", attempts=1)
        (letter,) = await stream.dead_letters()
        again = await stream.replay(letter.id)
        assert await states(stream, [handle, again]) == [EventState.PENDING] * 2
        (replayed,) = await take(consumer, 1)
        assert events.revision_of(replayed.event.change) == 7
        assert replayed.event.source == record.event.source
        await consumer.ack([replayed])
    assert await states(stream, [handle, again]) == [EventState.DONE] * 2
    assert await stream.dead_letters() == []
    for gone in (stream.replay(letter.id), stream.drop(letter.id), stream.dead_letter(letter.id)):
        with pytest.raises(NotFound):
            await gone


async def test_a_dropped_dead_letter_stays_dead_for_whoever_waits_for_it(stream: ProductStream) -> None:
    (handle,) = await stream.append([event_of("p")])
    async with only_consumer(stream) as consumer:
        await consumer.park((await take(consumer, 1))[0], reason="no", attempts=1)
    (letter,) = await stream.dead_letters()
    await stream.drop(letter.id)
    assert await stream.dead_letters() == []
    (status,) = await stream.statuses(GROUP, [handle])
    assert (status.state, status.reason) == (EventState.DEAD, "dropped: no")


async def test_dead_letters_are_listed_in_pages_in_the_order_in_which_they_were_parked(stream: ProductStream) -> None:
    await stream.append(some_events(7))
    async with only_consumer(stream) as consumer:
        for i, record in enumerate(await take(consumer, 7)):
            await consumer.park(record, reason=f"{i}", attempts=1)
    reasons: list[str] = []
    after = ""
    while page := await stream.dead_letters(after=after, limit=3):
        assert len(page) <= 3
        reasons += [letter.reason for letter in page]
        after = page[-1].id
    assert reasons == [f"{i}" for i in range(7)]


async def test_dead_letters_count_towards_the_bound_of_the_stream(open_stream: Open) -> None:
    stream = await open_stream(max_events=4)
    await stream.append(some_events(4))
    async with only_consumer(stream) as consumer:
        for record in await take(consumer, 4):
            await consumer.park(record, reason="no", attempts=1)
    await stream.trim(older_than_s=-60)
    with pytest.raises(Overloaded):
        await stream.append(some_events(1))
    await stream.drop((await stream.dead_letters())[0].id)
    await stream.append(some_events(1))


async def test_the_state_of_an_event_is_pending_until_it_is_acked(stream: ProductStream) -> None:
    first, second = await stream.append([event_of("p", 1), event_of("p", 2)])
    assert await states(stream, [first, second]) == [EventState.PENDING] * 2
    async with only_consumer(stream) as consumer:
        records = await take(consumer, 2)
        assert await states(stream, [first, second]) == [EventState.PENDING] * 2
        await consumer.ack(records[1:])
        assert await states(stream, [first, second]) == [EventState.PENDING, EventState.DONE]
        await consumer.ack(records)
    await stream.trim(older_than_s=-60)
    assert await states(stream, [first, second]) == [EventState.DONE] * 2


async def test_the_state_of_an_event_that_the_stream_never_had_is_unknown(stream: ProductStream) -> None:
    (handle,) = await stream.append([event_of("p")])
    unknown = [
        Handle("other", handle.partition, handle.entry),
        Handle(handle.stream, PARTITIONS, handle.entry),
        Handle(handle.stream, handle.partition, "99999999999999-0"),
    ]
    assert await states(stream, unknown) == [EventState.UNKNOWN] * 3


async def test_the_status_says_how_many_events_are_not_acked_and_how_old_the_oldest_is(stream: ProductStream) -> None:
    status = await stream.status(GROUP)
    assert (status.events, status.lag, status.oldest_s, status.dead_letters) == (0, 0, 0.0, 0)
    await stream.append(some_events(3))
    await asyncio.sleep(0.05)
    status = await stream.status(GROUP)
    assert (status.events, status.lag) == (3, 3)
    assert 0.05 <= status.oldest_s < 60
    async with only_consumer(stream) as consumer:
        records = await take(consumer, 3)
        assert (await stream.status(GROUP)).lag == 3
        await consumer.ack(records)
    status = await stream.status(GROUP)
    assert (status.events, status.lag, status.oldest_s) == (3, 0, 0.0)


async def test_a_handle_survives_as_text_and_no_other_text_is_one(stream: ProductStream) -> None:
    (handle,) = await stream.append([event_of("p")])
    assert Handle.parse(str(handle)) == handle
    for text in ("", "a", "a.b.c", ".1.2-0", "s.1.", "s.-1.2-0"):
        with pytest.raises(InvalidRequest, match="handle"):
            Handle.parse(text)
