"""The stream of product events in Redis: a Redis stream for each partition, groups, leases. Network I/O.

The keys, with the prefix of the settings: `:meta` (identity, partitions, counts), `:<partition>` (events), `:dead`
(dead letters), `:event:…` (the states of events that are or were dead letters), and of each group `:members:<group>`
and `:lease:<group>:<partition>`. Redis Cluster would have to keep all of them in one slot, and is not supported.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from redis.asyncio import Redis
from redis.exceptions import (
    AuthenticationError,
    AuthorizationError,
    MasterDownError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from lookalike.errors import BadSettings, NotFound, Overloaded, Unavailable
from lookalike.runtime.partition import shard_of
from lookalike.runtime.redis_tls import renewed, tls_options
from lookalike.stream import event as events
from lookalike.stream import redis_scripts as scripts
from lookalike.stream.consumer import LeasedConsumer, entry_order
from lookalike.stream.partition_log import OLDEST, Cursor, Entry, Group, Read
from lookalike.stream.product_stream import (
    Consumer,
    DeadLetter,
    EventState,
    EventStatus,
    Handle,
    StreamStatus,
)
from lookalike.stream.redis_durability import check_durability, persistence_of
from lookalike.stream.settings import DEFAULT_PARTITIONS, FULL_RETRY_S, StreamSettings
from lookalike.timestamps import unix_time_s
from lookalike.v1.event_pb2 import ProductEvent

log = logging.getLogger(__name__)

_STATE_S = 86_400  # For so long is known what became of a dead letter that was replayed or dropped.
_TRIM_AT_ONCE = 10_000  # Entries: Redis does nothing else meanwhile, for about a millisecond.
_ACK_AT_ONCE = 1000  # Entries of a partition: Lua passes some 8,000 arguments at most.
_STATUSES_AT_ONCE = 1000
_WAIT_SHARE = 0.8  # Of the time-out of a call: with `everysec` a write waits up to two seconds for its fsync.
_FULL = "the stream's Redis is full (maxmemory)"
_ATTEMPTS = 2  # A call is repeated once, after the stream was made anew.

Result = TypeVar("Result")


class _Emptied(Exception):
    """The stream of this identity is not there any more."""


class _NoGroup(Exception):
    """A partition is not known to the group."""


class RedisStream:
    """A `ProductStream` and `PartitionLog` in Redis; made by `open_redis_stream`.

    An event is acknowledged when Redis has it in its append-only file: with `appendfsync always` on disk, with
    `everysec` on disk, too, where Redis has WAITAOF (from 7.2 on), and else within a second.
    """

    def __init__(self, settings: StreamSettings, redis: Redis) -> None:
        self._settings = settings
        self._redis = redis
        self._id = ""
        self._partitions = 0
        self._wait_for_fsync = False
        self._groups: set[str] = set()  # That are known to be there.

    @property
    def stream_id(self) -> str:
        return self._id

    @property
    def partitions(self) -> int:
        return self._partitions

    async def open(self) -> None:
        """Check that Redis keeps what it is given, and find or create the stream. Raises BadSettings, Unavailable."""
        with _redis_errors():
            info = {**await self._redis.info("server"), **await self._redis.info("persistence")}
            info |= await self._redis.info("memory")
            config = await self._config()
        durability = check_durability(persistence_of(config, info), trust=self._settings.trust_durability)
        for notice in durability.notices:
            log.warning("%s", notice)
        self._wait_for_fsync = durability.wait_for_fsync
        await self._find_or_create()

    async def append(self, events_: Sequence[ProductEvent]) -> Sequence[Handle]:
        if not events_:
            return []
        numbers = [shard_of(events.product_id_of(event.change), self._partitions) for event in events_]
        arguments: list[Any] = []
        for number, event in zip(numbers, events_, strict=True):
            arguments += (number, events.encode(event))

        async def append() -> Any:
            keys = [self._meta, self._dead, *map(self._stream, range(self._partitions))]
            return await self._eval(
                scripts.APPEND, keys, [self._id, self._settings.max_events, *arguments], durable=True
            )

        entries = await self._attempt(append)
        if entries[0] == -1:
            message = f"the stream holds {entries[1]} events of {self._settings.max_events}"
            raise Overloaded(message, retry_after_s=FULL_RETRY_S)
        return [Handle(self._id, number, entry.decode()) for number, entry in zip(numbers, entries, strict=True)]

    def consumer(self, group: str, name: str) -> Consumer:
        settings = self._settings
        return LeasedConsumer(self, group, name, lease_s=settings.lease_s, heartbeat_s=settings.heartbeat_s)

    async def statuses(self, group: str, handles: Sequence[Handle]) -> Sequence[EventStatus]:
        found: list[EventStatus] = []
        for start in range(0, len(handles), _STATUSES_AT_ONCE):
            part = handles[start : start + _STATUSES_AT_ONCE]
            found += await self._attempt(lambda: self._statuses(group, part))  # noqa: B023  # awaited at once
        return found

    async def status(self, group: str) -> StreamStatus:
        async def status() -> Any:
            keys = [self._meta, self._dead, *map(self._stream, range(self._partitions))]
            return await self._eval(scripts.STATUS, keys, [self._id, group])

        kept, dead, lag, oldest_ms = await self._attempt(status)
        return StreamStatus(
            events=kept,
            max_events=self._settings.max_events,
            lag=lag,
            oldest_s=max(0, oldest_ms) / 1000,
            dead_letters=dead,
        )

    async def trim(self, *, older_than_s: float) -> int:
        with _redis_errors():
            seconds, microseconds = await self._redis.time()
        before_ms = int((seconds + microseconds / 1e6 - older_than_s) * 1000)
        trimmed = 0
        for number in range(self._partitions):

            async def trim(number: int = number) -> int:
                arguments = [self._id, max(0, before_ms), _TRIM_AT_ONCE]
                return int(await self._eval(scripts.TRIM, [self._meta, self._stream(number)], arguments))

            while removed := await self._attempt(trim):
                trimmed += removed
        return trimmed

    async def dead_letters(self, *, after: str = "", limit: int = 100) -> Sequence[DeadLetter]:
        start = f"({_entry_id(after)}" if after else "-"
        return [_dead_letter(self._id, id, fields) for id, fields in await self._dead_entries(start, "+", limit)]

    async def dead_letter(self, id: str) -> DeadLetter:
        if not (found := await self._dead_entries(_entry_id(id), _entry_id(id), 1)):
            raise NotFound(f"no dead letter {id}")
        return _dead_letter(self._id, *found[0])

    async def replay(self, id: str) -> Handle:
        letter = await self.dead_letter(id)
        event = events.replayed(id, letter.event, unix_time_s())
        number = shard_of(events.product_id_of(event.change), self._partitions)

        async def replay() -> Any:
            keys = [self._meta, self._dead, self._state(letter.group, letter.handle), self._stream(number)]
            arguments = [self._id, id, _STATE_S, number, events.encode(event)]
            return await self._eval(scripts.REPLAY, keys, arguments, durable=True)

        if not (entry := await self._attempt(replay)):
            raise NotFound(f"no dead letter {id}")
        return Handle(self._id, number, entry.decode())

    async def drop(self, id: str) -> None:
        letter = await self.dead_letter(id)

        async def drop() -> Any:
            keys = [self._meta, self._dead, self._state(letter.group, letter.handle)]
            return await self._eval(scripts.DROP, keys, [self._id, id, _STATE_S, f"dropped:{letter.reason}"])

        if not await self._attempt(drop):
            raise NotFound(f"no dead letter {id}")

    async def close(self) -> None:
        await self._redis.aclose()

    # As a PartitionLog.

    async def heartbeat(self, group: str, member: str, leases: Mapping[int, str], lease_s: float) -> Group:
        async def heartbeat() -> Any:
            if group not in self._groups:
                await self._create_group(group)
            keys = [self._meta, self._members(group), *(self._lease(group, each) for each in range(self._partitions))]
            held = [leases.get(each, "") for each in range(self._partitions)]
            return await self._eval(scripts.HEARTBEAT, keys, [self._id, member, _ms(lease_s), *held])

        members, holders = await self._attempt(heartbeat)
        return Group([each.decode() for each in members], [each.decode() for each in holders])

    async def take(self, group: str, leases: Mapping[int, str], lease_s: float) -> Mapping[int, str]:
        member = next(iter(leases.values())).rpartition("/")[0]

        async def take() -> Any:
            keys = [self._meta, *self._streams_and_leases(group, leases)]
            return await self._eval(scripts.TAKE, keys, [self._id, group, member, _ms(lease_s), *leases.values()])

        delivered = await self._attempt(take, group)
        return {number: entry.decode() for number, entry in zip(leases, delivered, strict=True) if entry}

    async def release(self, group: str, leases: Mapping[int, str]) -> None:
        await self._release(group, "", leases)

    async def leave(self, group: str, member: str, leases: Mapping[int, str]) -> None:
        await self._release(group, member, leases)

    async def read(
        self, group: str, member: str, cursors: Mapping[int, Cursor], *, max_entries: int, max_bytes: int
    ) -> Read:
        async def read() -> Any:
            keys = [self._meta, *self._streams_and_leases(group, cursors)]
            arguments: list[Any] = [self._id, group, member, max_entries, max_bytes]
            for number, cursor in cursors.items():
                arguments += (number, cursor.lease, cursor.after)
            return await self._eval(scripts.READ, keys, arguments)

        entries, after, lost = list[Entry](), dict[int, str](), list[int]()
        for number, (cursor, delivered) in zip(cursors, await self._attempt(read, group), strict=True):
            if not cursor:
                lost.append(number)
                continue
            after[number] = cursor.decode()
            for id, data, deliveries in delivered:
                entry = id.decode()
                entries.append(Entry(number, entry, data, deliveries, _time_of(entry)))
        return Read(entries, after, lost)

    async def wait(self, positions: Mapping[int, str], wait_s: float) -> bool:
        streams = {self._stream(number): position for number, position in positions.items()}
        with _redis_errors():
            return bool(await self._redis.xread(streams, count=1, block=_ms(wait_s)))  # type: ignore[arg-type]  # invariant

    async def ack(self, group: str, entries: Mapping[int, tuple[str, Sequence[str]]]) -> Collection[int]:
        lost: set[int] = set()
        rest = dict(entries)
        while rest:
            part = {number: (lease, ids[:_ACK_AT_ONCE]) for number, (lease, ids) in rest.items()}

            async def ack(part: Mapping[int, tuple[str, Sequence[str]]] = part) -> Any:
                arguments: list[Any] = [self._id, group]
                for number, (lease, ids) in part.items():
                    arguments += (number, lease, len(ids), *ids)
                return await self._eval(scripts.ACK, [self._meta, *self._streams_and_leases(group, part)], arguments)

            counts = await self._attempt(ack, group)
            lost |= {number for number, count in zip(part, counts, strict=True) if count < 0}
            rest = {
                number: (lease, ids[_ACK_AT_ONCE:])
                for number, (lease, ids) in rest.items()
                if len(ids) > _ACK_AT_ONCE and number not in lost
            }
        return lost

    async def park(self, group: str, partition: int, lease: str, entry: str, *, reason: str, attempts: int) -> bool:
        async def park() -> Any:
            state = self._state(group, Handle(self._id, partition, entry))
            keys = [self._meta, self._stream(partition), self._lease(group, partition), self._dead, state]
            return await self._eval(scripts.PARK, keys, [self._id, group, partition, lease, entry, reason, attempts])

        return bool(await self._attempt(park, group))

    # Keys.

    @property
    def _meta(self) -> str:
        return f"{self._settings.prefix}:meta"

    @property
    def _dead(self) -> str:
        return f"{self._settings.prefix}:dead"

    def _stream(self, partition: int) -> str:
        return f"{self._settings.prefix}:{partition}"

    def _members(self, group: str) -> str:
        return f"{self._settings.prefix}:members:{group}"

    def _lease(self, group: str, partition: int) -> str:
        return f"{self._settings.prefix}:lease:{group}:{partition}"

    def _state(self, group: str, handle: Handle) -> str:
        return f"{self._settings.prefix}:event:{group}:{handle.partition}:{handle.entry}"

    def _streams_and_leases(self, group: str, partitions: Collection[int]) -> Iterator[str]:
        for number in partitions:
            yield self._stream(number)
            yield self._lease(group, number)

    # Steps.

    async def _config(self) -> Mapping[str, str] | None:
        """The settings that durability depends on; None where Redis does not tell them."""
        found: dict[Any, Any] = {}
        try:
            for name in ("appendonly", "appendfsync", "maxmemory", "maxmemory-policy"):
                found |= await self._redis.config_get(name)  # Before version 7 it takes one name.
        except ResponseError:
            return None
        return found

    async def _dead_entries(self, start: str, end: str, count: int) -> Sequence[tuple[bytes, Mapping[bytes, bytes]]]:
        with _redis_errors():
            found: Any = await self._redis.xrange(self._dead, start, end, count=count)
        entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]] = found
        return entries

    async def _find_or_create(self) -> None:
        settings = self._settings
        arguments = [secrets.token_hex(4), settings.partitions or DEFAULT_PARTITIONS]
        found = await self._eval(scripts.OPEN, [self._meta], arguments)
        id, partitions = found[0].decode(), int(found[1])
        wanted = self._partitions or settings.partitions
        if wanted not in (0, partitions):
            raise BadSettings(
                f"the stream {settings.prefix} has {partitions} partitions, and not {wanted}: their number is fixed "
                "when it is created; restart with the right one, or use another prefix"
            )
        self._id, self._partitions = id, partitions

    async def _create_group(self, group: str) -> None:
        keys = [self._meta, *map(self._stream, range(self._partitions))]
        await self._eval(scripts.CREATE_GROUP, keys, [self._id, group])
        self._groups.add(group)

    async def _release(self, group: str, member: str, leases: Mapping[int, str]) -> None:
        async def release() -> Any:
            keys = [self._meta, self._members(group), *(self._lease(group, each) for each in leases)]
            return await self._eval(scripts.RELEASE, keys, [self._id, member, *leases.values()])

        await self._attempt(release)

    async def _statuses(self, group: str, handles: Sequence[Handle]) -> list[EventStatus]:
        """The state of each event; those that were replayed are followed to their new entries."""
        now = [*handles]
        states: list[str] = [""] * len(handles)
        open_ = [i for i, each in enumerate(now) if self._may_have(each)]
        while open_:
            keys, arguments = [self._meta], [self._id, group]
            for i in open_:
                keys += (self._stream(now[i].partition), self._state(group, now[i]))
                arguments.append(now[i].entry)
            found = await self._eval(scripts.STATUSES, keys, arguments)
            replayed = []
            for i, state in zip(open_, found, strict=True):
                states[i] = state.decode()
                if states[i].startswith("as:"):
                    now[i] = Handle.parse(f"{self._id}.{states[i].removeprefix('as:')}")
                    replayed.append(i)
            open_ = replayed
        return [_event_status(state) for state in states]

    def _may_have(self, handle: Handle) -> bool:
        return handle.stream == self._id and handle.partition < self._partitions and _is_entry_id(handle.entry)

    async def _attempt(self, call: Callable[[], Awaitable[Result]], group: str = "") -> Result:
        """Make a call; where the stream was emptied, or the group is gone, make it anew, and the call again."""
        for _ in range(_ATTEMPTS):
            try:
                return await call()
            except _Emptied:
                lost, self._groups = self._id, set()
                await self._find_or_create()
                log.error(
                    "the stream %s was emptied: the events that were in it, and who had read them, are lost "
                    "(it was %s and is %s now)",
                    self._settings.prefix,
                    lost,
                    self._id,
                )
            except _NoGroup:
                log.error(
                    "the group %s of the stream %s is gone: it begins again with the oldest event that the stream has",
                    group,
                    self._settings.prefix,
                )
                await self._create_group(group)
        raise Unavailable(f"the stream {self._settings.prefix} was emptied again while it was made anew")

    async def _eval(self, script: str, keys: Sequence[str], arguments: Sequence[Any], *, durable: bool = False) -> Any:
        """Run a script. durable: what it writes is on disk when this returns.

        Raises _Emptied, _NoGroup, and what `_redis_errors` does.
        """
        digest = hashlib.sha1(script.encode(), usedforsecurity=False).hexdigest()
        command = ("EVALSHA", digest, len(keys), *keys, *arguments)
        with _redis_errors():
            try:
                return await self._run(command, durable)
            except NoScriptError:  # A Redis that was restarted has forgotten it.
                await self._redis.script_load(script)
                return await self._run(command, durable)

    async def _run(self, command: tuple[Any, ...], durable: bool) -> Any:
        if not (durable and self._wait_for_fsync):
            return await self._redis.execute_command(*command)  # type: ignore[no-untyped-call]
        async with self._redis.pipeline(transaction=False) as pipeline:  # On one connection, whose writes it waits for.
            pipeline.execute_command(*command)
            pipeline.execute_command("WAITAOF", 1, 0, _ms(self._settings.timeout_s * _WAIT_SHARE))
            replies = await pipeline.execute(raise_on_error=False)
        for reply in replies:
            if isinstance(reply, Exception):
                raise reply
        if replies[1][0] < 1:
            raise Unavailable("the stream's Redis has not written the events to its disk in time")
        return replies[0]


async def open_redis_stream(settings: StreamSettings) -> RedisStream:
    """The stream of the settings, created where it is not there yet. Close it.

    Raises BadSettings for a Redis that may lose events, and for another number of partitions; Unavailable.
    """
    try:
        redis = renewed(
            Redis.from_url(
                settings.url,
                socket_timeout=settings.timeout_s,
                socket_connect_timeout=settings.timeout_s,
                retry=None,
                **tls_options(settings.url),
            )
        )
    except ValueError as error:
        raise BadSettings(f"url of the stream: {error}") from error
    stream = RedisStream(settings, redis)
    try:
        await stream.open()
    except BaseException:
        await stream.close()
        raise
    return stream


@contextmanager
def _redis_errors() -> Iterator[None]:
    """Raise what Redis and its client raise as the errors of a stream.

    A task that is cancelled in here stays cancelled: redis 8.1 now and then returns a reply all the same, or raises
    what closing the connection raised.
    """
    task = asyncio.current_task()
    cancellations = task.cancelling() if task else 0
    try:
        yield
    except Exception as error:
        if task and task.cancelling() > cancellations:
            raise asyncio.CancelledError from error
        if (meant := _meaning_of(error)) is None:
            raise
        raise meant from error
    if task and task.cancelling() > cancellations:
        raise asyncio.CancelledError


def _meaning_of(error: Exception) -> Exception | None:
    """The error of a stream that an error of Redis or its client is; None: it is a bug."""
    text = str(error)
    unavailable = Unavailable(f"the stream's Redis: {text or type(error).__name__}")
    meanings: Sequence[tuple[Exception, tuple[type[Exception], ...]]] = (
        (BadSettings(f"the stream's Redis: {text}"), (AuthenticationError, AuthorizationError, NoPermissionError)),
        (Overloaded(_FULL, retry_after_s=FULL_RETRY_S), (OutOfMemoryError,)),
        (unavailable, (RedisConnectionError, RedisTimeoutError, ReadOnlyError, MasterDownError, OSError)),
    )
    for meaning, kinds in meanings:
        if isinstance(error, kinds):
            return meaning
    # What a script answered, or, before version 7, the text of the error of one of its calls.
    texts: Sequence[tuple[Exception, tuple[str, ...]]] = (
        (_Emptied(), ("FLUSHED",)),
        (_NoGroup(), ("NOGROUP",)),
        (Overloaded(_FULL, retry_after_s=FULL_RETRY_S), ("OOM",)),
        (unavailable, ("READONLY", "MISCONF", "MASTERDOWN", "LOADING", "BUSY", "NOREPLICAS")),
    )
    for meaning, words in texts if isinstance(error, ResponseError) else ():
        if any(word in text for word in words):
            return meaning
    return None


def _event_status(state: str) -> EventStatus:
    kind, _, reason = state.partition(":")
    match kind:
        case "dead":
            return EventStatus(EventState.DEAD, reason)
        case "dropped":
            return EventStatus(EventState.DEAD, events.dropped(reason))
        case "":
            return EventStatus(EventState.UNKNOWN)
    return EventStatus(EventState(kind))


def _dead_letter(stream_id: str, id: bytes, fields: Mapping[bytes, bytes]) -> DeadLetter:
    entry = fields.get(b"entry", OLDEST.encode()).decode()
    return DeadLetter(
        id=id.decode(),
        handle=Handle(stream_id, int(fields.get(b"partition", b"0")), entry),
        event=events.decode(fields.get(b"e", b"")),
        reason=fields.get(b"reason", b"").decode(errors="replace"),
        attempts=int(fields.get(b"attempts", b"0")),
        group=fields.get(b"group", b"").decode(),
        appended_at_s=_time_of(entry),
        parked_at_s=_time_of(id.decode()),
    )


def _entry_id(id: str) -> str:
    """Raises NotFound for a text that no dead letter has as its id."""
    if not _is_entry_id(id):
        raise NotFound(f"no dead letter {id[:64]!r}")
    return id


def _is_entry_id(text: str) -> bool:
    milliseconds, dash, number = text.partition("-")
    return bool(dash) and all(part.isascii() and part.isdigit() and len(part) < 17 for part in (milliseconds, number))


def _time_of(entry: str) -> float:
    return entry_order(entry)[0] / 1000


def _ms(seconds: float) -> int:
    return max(1, round(seconds * 1000))
