"""Single flight: concurrent calls with the same key share the work."""

from __future__ import annotations

import asyncio

import pytest

from lookalike.errors import DeadlineExceeded, NotFound
from lookalike.runtime.deadline import Deadline
from server.single_flight import SingleFlight

NEVER = Deadline.after(None)


class Work:
    """Work that waits for a gate, then returns or raises; it counts its starts and cancellations."""

    def __init__(self) -> None:
        self.started = 0
        self.cancelled = 0
        self.gate = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> bytes:
        self.started += 1
        try:
            await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.error:
            raise self.error
        return b"answer"


async def test_calls_with_one_key_share_the_work_and_other_keys_have_their_own() -> None:
    flights, work = SingleFlight[bytes](), Work()
    calls = [asyncio.create_task(flights(key, work, NEVER)) for key in ("a", "a", "a", "b")]
    await asyncio.sleep(0)
    work.gate.set()
    assert await asyncio.gather(*calls) == [b"answer"] * 4
    assert work.started == 2


async def test_all_callers_get_the_error_and_the_next_call_starts_anew() -> None:
    flights, work = SingleFlight[bytes](), Work()
    work.error = NotFound("no such")
    calls = [asyncio.create_task(flights("a", work, NEVER)) for _ in range(2)]
    await asyncio.sleep(0)
    work.gate.set()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [NotFound, NotFound]
    work.error = None
    assert await flights("a", work, NEVER) == b"answer"
    assert work.started == 2


async def test_work_whose_caller_gives_up_is_cancelled_and_done_by_one_of_those_that_wait_for_it() -> None:
    flights, work = SingleFlight[bytes](), Work()
    first, second, third = (asyncio.create_task(flights("a", work, NEVER)) for _ in range(3))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait((first,))
    await asyncio.sleep(0)
    assert (work.started, work.cancelled) == (2, 1)
    work.gate.set()
    assert (await second, await third) == (b"answer", b"answer")
    assert work.started == 2


async def test_a_caller_that_gives_up_waiting_disturbs_nobody() -> None:
    flights, work = SingleFlight[bytes](), Work()
    first, second, third = (asyncio.create_task(flights("a", work, NEVER)) for _ in range(3))
    await asyncio.sleep(0)
    second.cancel()
    await asyncio.wait((second,))
    work.gate.set()
    assert (await first, await third) == (b"answer", b"answer")
    assert (work.started, work.cancelled) == (1, 0)


async def test_a_deadline_ends_only_the_wait_of_its_own_call() -> None:
    flights, work = SingleFlight[bytes](), Work()
    patient = asyncio.create_task(flights("a", work, NEVER))
    await asyncio.sleep(0)
    with pytest.raises(DeadlineExceeded):
        await flights("a", work, Deadline.after(0.01))
    work.gate.set()
    assert await patient == b"answer"


async def test_a_caller_with_time_left_restarts_work_that_exceeded_another_callers_deadline() -> None:
    flights, hurried, patient = SingleFlight[bytes](), Work(), Work()
    hurried.error = DeadlineExceeded("the first caller's time is over")
    patient.gate.set()
    first = asyncio.create_task(flights("a", hurried, Deadline.after(0.02)))
    await asyncio.sleep(0)
    second = asyncio.create_task(flights("a", patient, NEVER))
    await asyncio.sleep(0.03)
    hurried.gate.set()
    with pytest.raises(DeadlineExceeded):
        await first
    assert await second == b"answer"
    assert (hurried.started, patient.started) == (1, 1)


async def test_work_that_exceeds_a_deadline_of_its_own_is_not_restarted() -> None:
    flights, work = SingleFlight[bytes](), Work()
    work.error = DeadlineExceeded("somebody's time is over")
    work.gate.set()
    with pytest.raises(DeadlineExceeded):
        await flights("a", work, Deadline.after(60))
    assert work.started == 1
