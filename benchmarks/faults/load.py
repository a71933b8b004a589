"""Calls to all gateways through one client, open or closed loop, with a record of each. Network I/O, in a thread."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from benchmarks.faults.calls import Call, Calls
from lookalike.client import AsyncClient
from lookalike.errors import LookalikeError

DEADLINE_S: Final = 10.0  # Of a call: longer than any is meant to take, so that a late one is seen as late.
OK: Final = "ok"
_CALLERS: Final = (4, 16, 64)  # Of the closed loops: the best is the peak.


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One call. Times in seconds of `time.perf_counter`."""

    kind: str
    needs: frozenset[str]
    due_s: float  # When it was to be sent.
    sent_s: float
    ended_s: float
    status: str  # OK, or the type of the error.
    coverage: float
    is_stale: bool  # It read a product older than what was acknowledged before it was sent.

    @property
    def took_s(self) -> float:
        """From when it was due: that the caller's own machine was busy counts, too."""
        return self.ended_s - self.due_s


class Load:
    """Makes calls from a thread of its own, and keeps a record of each that has ended.

    address:    of all gateways
    deadline_s: of a call
    """

    def __init__(self, address: str, calls: Calls, *, seed: int, deadline_s: float = DEADLINE_S) -> None:
        self.records: list[Record] = []
        self.errors = Counter[str]()  # What failed calls said, by kind.
        self._address, self._calls, self._deadline_s = address, calls, deadline_s
        self._gaps = np.random.default_rng(seed)

    @contextmanager
    def running(self, *, per_s: float) -> Iterator[None]:
        """An open loop: calls at random times (Poisson), whatever the earlier ones take. At the end all are awaited."""
        stop = threading.Event()
        with _in_thread(self._open_loop(per_s, stop), stop):
            yield

    @contextmanager
    def running_closed(self, *, inflight: int) -> Iterator[None]:
        """A closed loop: `inflight` callers, each of which waits for its answer before the next call."""
        stop = threading.Event()
        with _in_thread(self._closed_loop(inflight, stop), stop):
            yield

    def count(self) -> int:
        """Calls that have ended."""
        return len(self.records)

    async def _open_loop(self, per_s: float, stop: threading.Event) -> None:
        running, due_s = set[asyncio.Task[None]](), time.perf_counter()
        async with AsyncClient(self._address, timeout_s=self._deadline_s) as client:
            while not stop.is_set():
                due_s += float(self._gaps.exponential(1 / per_s))
                await asyncio.sleep(max(0.0, due_s - time.perf_counter()))
                task = asyncio.create_task(self._make(client, self._calls.draw(), due_s))
                running.add(task)
                task.add_done_callback(running.discard)
            await asyncio.gather(*running)

    async def _closed_loop(self, inflight: int, stop: threading.Event) -> None:
        async def caller(client: AsyncClient) -> None:
            while not stop.is_set():
                await self._make(client, self._calls.draw(), time.perf_counter())

        async with AsyncClient(self._address, timeout_s=self._deadline_s) as client:
            await asyncio.gather(*(caller(client) for _ in range(inflight)))

    async def _make(self, client: AsyncClient, call: Call, due_s: float) -> None:
        sent_s, status, coverage, is_stale = time.perf_counter(), OK, 1.0, False
        try:
            answer = await call.make(client)
            coverage, is_stale = answer.coverage, answer.is_stale
        except LookalikeError as error:
            status = type(error).__name__
            self.errors[f"{call.kind}: {status}: {error}"] += 1
        record = Record(
            kind=call.kind,
            needs=call.needs,
            due_s=due_s,
            sent_s=sent_s,
            ended_s=time.perf_counter(),
            status=status,
            coverage=coverage,
            is_stale=is_stale,
        )
        self.records.append(record)


@contextmanager
def _in_thread(loop: Coroutine[Any, Any, None], stop: threading.Event) -> Iterator[None]:
    """Run it in a thread until the end of the block; raises what it raised."""
    errors = list[BaseException]()

    def run() -> None:
        try:
            asyncio.run(loop)
        except BaseException as error:  # Raised in the thread that waits for it.
            errors.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    if errors:
        raise RuntimeError("the load failed") from errors[0]


def peak_per_s(address: str, calls: Calls, *, seconds: float, seed: int) -> float:
    """Answers a second of the best closed loop."""
    found = []
    for inflight in _CALLERS:
        load = Load(address, calls, seed=seed)
        began_s = time.perf_counter()
        with load.running_closed(inflight=inflight):
            time.sleep(seconds)
        ended_s = time.perf_counter()
        found.append(sum(each.status == OK for each in load.records) / (ended_s - began_s))
    return max(found)
