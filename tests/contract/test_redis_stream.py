"""What the stream of product events does when its Redis is unsafe, killed, suspended, full, emptied or a replica."""

from __future__ import annotations

import asyncio
import logging
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from lookalike.errors import BadSettings, InvalidRequest, Overloaded, Unavailable
from lookalike.stream import event as events
from lookalike.stream.product_stream import Consumer, EventState, ProductStream, Record
from lookalike.stream.redis_stream import RedisStream, open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.v1.event_pb2 import ProductEvent
from tests.conftest import REPOSITORY
from tests.contract.test_product_stream import (
    GROUP,
    event_of,
    ids_of,
    only_consumer,
    poll,
    some_events,
    states,
    take,
    until,
    until_held,
)
from tests.redis_servers import RedisServer

SETTINGS = {"partitions": 2, "lease_s": 60.0, "heartbeat_s": 0.05, "timeout_s": 5.0}


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    with RedisServer(tmp_path) as server:
        yield server


def large_event(i: int) -> ProductEvent:
    return events.new_event(event_of(f"p{i}").change, source="x" * 2000, published_at_s=1.0)


@asynccontextmanager
async def opened(server: RedisServer, **settings: object) -> AsyncIterator[RedisStream]:
    stream = await open_redis_stream(StreamSettings(url=server.url, **{**SETTINGS, **settings}))  # type: ignore[arg-type]
    try:
        yield stream
    finally:
        await stream.close()


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"appendonly": "no"}, "appendonly is no"),
        ({"appendfsync": "no"}, "appendfsync is no"),
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "maxmemory-policy is allkeys-lru"),
        ({"rename-command": "CONFIG forbidden"}, "appendfsync"),
    ],
)
async def test_a_redis_that_may_lose_events_is_refused_by_name_unless_the_operator_answers_for_it(
    tmp_path: Path, options: dict[str, str], named: str, caplog: pytest.LogCaptureFixture
) -> None:
    with RedisServer(tmp_path, **options) as server:
        with pytest.raises(BadSettings, match=named):
            async with opened(server):
                pass
        async with opened(server, trust_durability=True) as stream:
            await stream.append(some_events(1))
    assert named in caplog.text


@pytest.mark.parametrize(
    "options",
    [{"maxmemory-policy": "allkeys-lru"}, {"maxmemory": "100mb"}, {"appendfsync": "everysec"}],
)
async def test_a_redis_that_keeps_everything_is_used(tmp_path: Path, options: dict[str, str]) -> None:
    with RedisServer(tmp_path, **options) as server:
        async with opened(server) as stream:
            handles = await stream.append(some_events(20))
        server.kill()
        server.start()
        async with opened(server) as stream:
            assert await states(stream, handles) == [EventState.PENDING] * 20


async def test_another_number_of_partitions_than_the_stream_has_is_refused(server: RedisServer) -> None:
    async with opened(server):
        pass
    with pytest.raises(BadSettings, match="has 2 partitions, and not 3"):
        async with opened(server, partitions=3):
            pass
    async with opened(server, partitions=0) as stream:
        assert stream.partitions == 2


async def test_an_address_that_is_no_redis_is_an_error_that_says_so() -> None:
    with pytest.raises(BadSettings, match="url of the stream"):
        await open_redis_stream(StreamSettings(url="nonsense"))
    with pytest.raises(Unavailable, match="the stream's Redis"):
        await open_redis_stream(StreamSettings(url="redis://127.0.0.1:1"))


@pytest.mark.slow
async def test_nothing_that_was_acknowledged_is_lost_over_kills_of_redis(server: RedisServer) -> None:
    """The oracle is what publishers were told, and what consumers were told: none of it may be undone."""
    rng = random.Random(7)
    published: dict[str, int] = {}  # The newest acknowledged revision of each product.
    applied: Counter[str] = Counter()
    delivered: Counter[str] = Counter()
    stop = asyncio.Event()

    async def publish(stream: ProductStream, name: str) -> None:
        revision = 0
        while not stop.is_set():
            revision += 1
            batch = [event_of(f"{name}-{i}", revision) for i in range(rng.randint(1, 8))]
            while True:
                try:
                    await stream.append(batch)
                    break
                except Unavailable:
                    await asyncio.sleep(0.02)
            for event in batch:
                published[events.product_id_of(event.change)] = revision

    async def consume(stream: ProductStream) -> None:
        async with stream.consumer(GROUP, "w") as consumer:
            while True:
                try:
                    batch = await poll(consumer, max_records=50, wait_s=0.05)
                except Unavailable:
                    continue
                for record in batch.records:
                    product_id, revision = (
                        events.product_id_of(record.event.change),
                        events.revision_of(record.event.change),
                    )
                    applied[product_id] = max(applied[product_id], revision)  # Idempotent, as a shard is.
                    delivered[str(record.handle)] += 1
                await acked(consumer, batch.records)

    async def acked(consumer: Consumer, records: Sequence[Record]) -> None:
        while records := [record for record in records if consumer.holds(record)]:
            try:
                await consumer.ack(records)
                return
            except Unavailable:
                await asyncio.sleep(0.02)

    async with opened(server, lease_s=2.0) as one, opened(server, lease_s=2.0) as two:
        publishers = [asyncio.create_task(publish(stream, f"p{i}")) for i, stream in enumerate((one, two))]
        consumers = [asyncio.create_task(consume(stream)) for stream in (one, two)]
        for _ in range(6):
            before = sum(published.values())
            await until(lambda before=before: sum(published.values()) > before + 100)  # type: ignore[misc]  # bound
            await asyncio.sleep(rng.uniform(0, 0.2))
            server.kill()
            await asyncio.sleep(rng.uniform(0, 0.2))
            await asyncio.to_thread(server.start)
        stop.set()
        await asyncio.gather(*publishers)

        async def drained() -> bool:
            try:
                return (await one.status(GROUP)).lag == 0
            except Unavailable:
                return False

        async with asyncio.timeout(20):
            while not await drained():
                assert not any(task.done() for task in consumers)
                await asyncio.sleep(0.05)
        for task in consumers:
            task.cancel()
        await asyncio.gather(*consumers, return_exceptions=True)
    assert sum(published.values()) > 600
    assert {id: applied[id] for id in published} == published
    assert len(delivered) >= len(published)


async def test_a_consumer_goes_on_after_redis_was_killed_and_has_what_it_did_not_ack(server: RedisServer) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        await stream.append(some_events(10))
        records = await take(consumer, 10)
        await consumer.ack(records[:5])
        server.kill()
        with pytest.raises(Unavailable):
            await poll(consumer, wait_s=0.2)
        with pytest.raises(Unavailable):
            await consumer.ack(records[5:])
        await asyncio.to_thread(server.start)
        await stream.append(some_events(3, start=100))
        seen: set[str] = set()
        async with asyncio.timeout(20):
            while not {"p100", "p101", "p102"} <= seen:
                batch = await poll(consumer)
                seen |= set(ids_of(batch.records))
                await consumer.ack(batch.records)
        await consumer.ack([record for record in records[5:] if consumer.holds(record)])
        async with asyncio.timeout(20):
            while (await stream.status(GROUP)).lag:
                await consumer.ack((await poll(consumer)).records)
        assert not seen & set(ids_of(records[:5]))


async def test_after_a_failure_what_is_in_flight_is_not_delivered_twice_and_does_not_hide_what_is_new(
    server: RedisServer,
) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        await stream.append(some_events(50))
        records = await take(consumer, 50)
        server.kill()
        with pytest.raises(Unavailable):
            await poll(consumer, wait_s=0)
        await asyncio.to_thread(server.start)
        await stream.append([event_of("new")])
        batch = await poll(consumer, max_records=7, wait_s=20)
        assert ids_of(batch.records) == ["new"]
        assert await consumer.ack([*records, *batch.records]) == []
        assert (await stream.status(GROUP)).lag == 0


async def test_a_redis_that_hangs_longer_than_a_lease_costs_the_partitions_and_nothing_else(
    server: RedisServer,
) -> None:
    async with opened(server, lease_s=2.0) as stream, only_consumer(stream) as consumer:
        await stream.append(some_events(10))
        records = await take(consumer, 10)
        server.signal(signal.SIGSTOP)
        try:
            await until(lambda: not any(map(consumer.holds, records)))
            assert await consumer.ack(records) == records
        finally:
            server.signal(signal.SIGCONT)
        await until_held(consumer, 2)
        again = await take(consumer, 10)
        assert sorted(ids_of(again)) == sorted(ids_of(records))
        assert await consumer.ack(again) == []


async def test_a_redis_that_is_full_refuses_events_and_is_drained_by_a_new_group_all_the_same(
    server: RedisServer,
) -> None:
    async with opened(server, max_events=10**6) as stream:
        with server.client() as redis:
            used = int(redis.info("memory")["used_memory"])
            redis.config_set("maxmemory", used + (8 << 20))
        appended = 0

        async def fill() -> None:
            nonlocal appended
            while appended < 100_000:
                await stream.append([large_event(i) for i in range(appended, appended + 500)])
                appended += 500

        with pytest.raises(Overloaded, match="full") as refused:
            await fill()
        assert refused.value.retry_after_s > 0
        assert appended > 500
        async with only_consumer(stream) as consumer:
            (first, *rest) = (await poll(consumer, max_records=500, max_bytes=8 << 20)).records
            assert await consumer.park(first, reason="no", attempts=1)
            assert await consumer.ack(rest) == []
            drained = 1 + len(rest)
            while drained < appended:
                records = (await poll(consumer, max_records=1000, max_bytes=8 << 20)).records
                assert await consumer.ack(records) == []
                drained += len(records)
            assert await stream.trim(older_than_s=-60) == appended
        async with asyncio.timeout(20):
            while not await accepts(stream):  # noqa: ASYNC110  # Redis frees its clients' buffers after a while.
                await asyncio.sleep(0.05)


async def accepts(stream: ProductStream) -> bool:
    try:
        await stream.append(some_events(500))
    except Overloaded:
        return False
    return True


async def test_a_redis_that_has_become_a_replica_is_unavailable(server: RedisServer) -> None:
    async with opened(server) as stream:
        await stream.append(some_events(1))
        with server.client() as redis:
            redis.replicaof("127.0.0.1", 1)
            with pytest.raises(Unavailable, match=r"(?i)replica|masterdown"):
                await stream.append(some_events(1))
            redis.replicaof("NO", "ONE")
        await stream.append(some_events(1))


async def test_a_redis_that_is_still_loading_is_unavailable_and_then_has_everything(server: RedisServer) -> None:
    async with opened(server) as stream:
        handles = await stream.append(some_events(200))
        with server.client() as redis:
            redis.set("ballast", b"x" * (8 << 20))
            for i in range(200):
                redis.set(f"ballast:{i}", b"x" * 10_000)
        server.kill()
        await asyncio.to_thread(server.start, wait=False)
        unavailable = 0
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await states(stream, handles) == [EventState.PENDING] * 200
                    break
                except Unavailable:
                    unavailable += 1
                    await asyncio.sleep(0.001)
        assert unavailable


async def test_a_stream_that_was_emptied_goes_on_anew_and_says_so(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        old = await stream.append(some_events(10))
        records = await take(consumer, 10)
        with server.client() as redis:
            redis.flushall()
        new = await stream.append(some_events(4, start=50))
        assert "was emptied" in caplog.text
        assert {handle.stream for handle in new} != {handle.stream for handle in old}
        assert sorted(ids_of(await take(consumer, 4))) == [f"p{i}" for i in range(50, 54)]
        assert not any(map(consumer.holds, records))
        assert await consumer.ack(records) == records
        assert await states(stream, old) == [EventState.UNKNOWN] * 10
        assert await states(stream, new) == [EventState.PENDING] * 4


async def test_a_stream_that_was_made_anew_with_other_partitions_stops_who_knew_the_old_one(
    server: RedisServer,
) -> None:
    async with opened(server) as stream:
        with server.client() as redis:
            redis.flushall()
        async with opened(server, partitions=5):
            with pytest.raises(BadSettings, match="has 5 partitions, and not 2"):
                await stream.append(some_events(1))


async def test_a_consumer_of_such_a_stream_raises_what_ended_its_heartbeats(server: RedisServer) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        with server.client() as redis:
            redis.flushall()
            redis.hset("lookalike:events:meta", mapping={"id": "other", "partitions": 5})

        async def poll_on() -> None:
            async with asyncio.timeout(20):
                while True:
                    await poll(consumer)

        with pytest.raises(BadSettings, match="has 5 partitions, and not 2"):
            await poll_on()


async def test_what_another_program_has_read_in_the_group_is_delivered_all_the_same(server: RedisServer) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        await take_none(consumer)
        (handle,) = await stream.append([event_of("p")])
        with server.client() as redis:
            key = f"lookalike:events:{handle.partition}"
            redis.xreadgroup(GROUP, "stranger", {key: ">"}, count=1)
        assert ids_of(await take(consumer, 1)) == ["p"]


async def take_none(consumer: Consumer) -> None:
    assert (await poll(consumer)).records == []


async def test_a_group_that_was_deleted_begins_again_and_says_so(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        await stream.append(some_events(10))
        records = await take(consumer, 10)
        await consumer.ack(records)
        with server.client() as redis:
            for partition in range(2):
                redis.xgroup_destroy(f"lookalike:events:{partition}", GROUP)
        again = await take(consumer, 10)
        assert "is gone" in caplog.text
        assert sorted(ids_of(again)) == sorted(ids_of(records))


async def test_an_entry_that_is_no_event_is_parked_with_its_reason_and_can_only_be_dropped(
    server: RedisServer,
) -> None:
    async with opened(server) as stream, only_consumer(stream) as consumer:
        with server.client() as redis:
            redis.xadd("lookalike:events:0", {"e": b"\xff\xff"})
            redis.xadd("lookalike:events:0", {"other": b"field"})
        await stream.append([event_of("p")])
        assert ids_of(await take(consumer, 1)) == ["p"]
        letters = await stream.dead_letters()
        assert [(letter.event, letter.reason) for letter in letters] == [
            (None, "its 2 bytes are no event"),
            (None, "its 0 bytes are no event"),
        ]
        with pytest.raises(InvalidRequest, match="only be dropped"):
            await stream.replay(letters[0].id)
        await stream.drop(letters[0].id)
        assert len(await stream.dead_letters()) == 1


async def test_an_entry_that_was_deleted_by_hand_holds_nothing_up(server: RedisServer) -> None:
    async with opened(server) as stream:
        handles = await stream.append([event_of("p", revision) for revision in (1, 2, 3)])
        async with only_consumer(stream) as consumer:
            await take(consumer, 3)
        with server.client() as redis:
            redis.xdel(f"lookalike:events:{handles[0].partition}", handles[0].entry)
        async with only_consumer(stream) as consumer:
            records = await take(consumer, 2)
            await consumer.ack(records)
        assert [events.revision_of(record.event.change) for record in records] == [2, 3]
        assert (await stream.status(GROUP)).lag == 0


async def test_scripts_that_redis_forgot_are_sent_again(server: RedisServer) -> None:
    async with opened(server) as stream:
        await stream.append(some_events(1))
        with server.client() as redis:
            redis.script_flush()
        await stream.append(some_events(1))


async def test_members_that_died_leave_nothing_behind_in_redis(server: RedisServer) -> None:
    async with opened(server) as stream:
        await stream.append(some_events(4))
        for _ in range(3):
            async with only_consumer(stream) as consumer:
                await poll(consumer, max_records=1)
        async with only_consumer(stream) as consumer:
            await consumer.ack(await take(consumer, 4))
        async with only_consumer(stream):
            pass
        with server.client() as redis:
            for partition in range(2):
                assert redis.xinfo_consumers(f"lookalike:events:{partition}", GROUP) == []
            assert not [*redis.scan_iter("lookalike:events:lease:*")]
            assert not redis.zcard("lookalike:events:members:workers")


def test_the_log_of_the_stream_is_quiet_while_all_is_well(
    server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async def run() -> None:
        async with opened(server) as stream, only_consumer(stream) as consumer:
            await stream.append(some_events(3))
            await consumer.ack(await take(consumer, 3))

    with caplog.at_level(logging.INFO, "lookalike"):
        asyncio.run(run())
    assert caplog.records == []


class ChildConsumer:
    """A consumer in a process of its own, and what it has applied."""

    def __init__(self, url: str, seed: int, directory: Path) -> None:
        self._output = directory / f"applied-{seed}"
        with self._output.open("wb") as file:
            command = [sys.executable, "-m", "tests.contract.stream_child", url, str(seed)]
            self.process = subprocess.Popen(command, cwd=REPOSITORY, stdout=file)

    def applied(self) -> Iterator[tuple[str, int, int]]:
        """Product, revision and time."""
        for line in self._output.read_text().split("\n")[:-1]:  # The last may be cut off.
            product_id, revision, at_ns = line.split()
            yield product_id, int(revision), int(at_ns)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)


@pytest.mark.slow
async def test_consumers_that_are_killed_or_suspended_lose_no_event_and_no_order(
    server: RedisServer, tmp_path: Path
) -> None:
    """Of each product every revision is applied, for the first time after the one before it."""
    rng, products, revisions = random.Random(3), 20, 15
    children: list[ChildConsumer] = []
    try:
        async with opened(server, lease_s=1.0, heartbeat_s=0.1) as stream:
            children += [ChildConsumer(server.url, seed, tmp_path) for seed in range(2)]
            await until(lambda: len(stream_members(server)) == 2)
            for revision in range(1, revisions + 1):
                await stream.append([event_of(f"p{i}", revision) for i in range(products)])
                await asyncio.sleep(0.05)
                victim = rng.choice(children[-2:])
                if revision % 5 == 2:
                    victim.signal(signal.SIGKILL)
                    victim.process.wait()
                    children.append(ChildConsumer(server.url, len(children), tmp_path))
                elif revision % 5 == 4:
                    victim.signal(signal.SIGSTOP)
                    await asyncio.sleep(1.5)  # Longer than a lease.
                    victim.signal(signal.SIGCONT)
            async with asyncio.timeout(60):
                while (await stream.status(GROUP)).lag:  # noqa: ASYNC110  # other processes change it
                    await asyncio.sleep(0.05)
        first: dict[tuple[str, int], int] = {}
        for product_id, revision, at_ns in (each for child in children for each in child.applied()):
            first[product_id, revision] = min(at_ns, first.get((product_id, revision), at_ns))
        for i in range(products):
            times = [first[f"p{i}", revision] for revision in range(1, revisions + 1)]
            assert times == sorted(times)
    finally:
        for child in children:
            child.process.kill()
            child.process.wait()


def stream_members(server: RedisServer) -> list[bytes]:
    with server.client() as redis:
        return [*redis.zrange("lookalike:events:members:workers", 0, -1)]
