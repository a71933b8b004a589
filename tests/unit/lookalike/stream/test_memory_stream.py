"""What only the stream in memory can be shown to do: with clocks that a test sets."""

from __future__ import annotations

from lookalike.stream import event as events
from lookalike.stream.consumer import entry_order
from lookalike.stream.memory_stream import MemoryStream
from lookalike.stream.product_stream import Handle
from tests.contract.test_product_stream import GROUP, event_of, only_consumer, take


async def test_a_clock_that_goes_back_changes_no_order() -> None:
    now_s = [100.0]
    stream = MemoryStream(1, heartbeat_s=0.02, unix_time_s=lambda: now_s[0])
    handles: list[Handle] = []
    for revision, at_s in enumerate((100.0, 50.0, 50.0, 100.0, 200.0), 1):
        now_s[0] = at_s
        handles += await stream.append([event_of("p", revision)])
    order = [entry_order(handle.entry) for handle in handles]
    assert order == sorted(set(order))
    async with only_consumer(stream) as consumer:
        records = await take(consumer, 5)
    assert [events.revision_of(record.event.change) for record in records] == [1, 2, 3, 4, 5]
    now_s[0] = 10.0
    assert (await stream.status(GROUP)).oldest_s == 0.0


async def test_the_age_of_the_oldest_event_that_is_not_acked_is_by_the_streams_clock() -> None:
    now_s = [100.0]
    stream = MemoryStream(1, heartbeat_s=0.02, unix_time_s=lambda: now_s[0])
    await stream.append([event_of("p", 1)])
    now_s[0] = 130.0
    await stream.append([event_of("p", 2)])
    now_s[0] = 160.0
    assert (await stream.status(GROUP)).oldest_s == 60.0
    async with only_consumer(stream) as consumer:
        first, _ = await take(consumer, 2)
        await consumer.ack([first])
        assert (await stream.status(GROUP)).oldest_s == 30.0
        assert await stream.trim(older_than_s=61) == 0
        assert await stream.trim(older_than_s=59) == 1
