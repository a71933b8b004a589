"""The replicas of a service, over real gRPC: resolved, polled, and called where they serve what a call needs."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from encoders.text.client import TextEncoder
from encoders.text.replicas import TextEncoderReplicas, poll_text_encoders, text_encoder_replicas
from lookalike.errors import DeadlineExceeded, FailedPrecondition, LookalikeError, Unavailable
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.replicas import HANGS_S, MAX_FAILURES, MAX_LATE, PAUSE_S, resolve_address
from lookalike.v1 import text_encoder_pb2 as pb
from tests.rpc.gateways import ScriptedTextEncoder, serving

SOON = 5.0


@dataclass
class Replica(ScriptedTextEncoder):
    """A scripted text encoder that counts its calls, and may block them."""

    calls: int = 0
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    may_describe: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self.may_answer.set()
        self.may_describe.set()

    async def describe(self, request: pb.DescribeEncodersRequest, deadline: Deadline) -> pb.DescribeEncodersResponse:
        await self.may_describe.wait()
        return await super().describe(request, deadline)

    async def encode(self, request: pb.EncodeTextRequest, deadline: Deadline) -> pb.EncodeTextResponse:
        self.calls += 1
        await self.may_answer.wait()
        if request.fingerprint not in ("", self.fingerprint):
            raise FailedPrecondition(f"serves {self.fingerprint}")
        return await super().encode(request, deadline)


@asynccontextmanager
async def replicas_of(*addresses: str) -> AsyncIterator[TextEncoderReplicas]:
    replicas = text_encoder_replicas(addresses)
    try:
        yield replicas
    finally:
        await replicas.close()


async def encode(replicas: TextEncoderReplicas, fingerprint: str = "") -> str:
    """The fingerprint of what encoded a text."""
    return (await TextEncoder(replicas).encode(["p07"], Deadline.after(SOON), fingerprint)).encoder


async def test_a_call_goes_to_a_replica_that_serves_what_it_needs() -> None:
    old, new = Replica("hybrid-1"), Replica("hybrid-2")
    async with (
        serving(old.handler()) as first,
        serving(new.handler()) as second,
        replicas_of(first, second) as replicas,
    ):
        served = await poll_text_encoders(replicas, "", SOON)
        assert {each: [*state.fingerprints] for each, state in served.items()} == {
            first: ["hybrid-1"],
            second: ["hybrid-2"],
        }
        assert {await encode(replicas, "hybrid-1") for _ in range(3)} == {"hybrid-1"}
        assert {await encode(replicas, "hybrid-2") for _ in range(3)} == {"hybrid-2"}
    assert (old.calls, new.calls) == (3, 3)


async def test_a_call_goes_to_the_replica_with_the_fewest_calls_in_flight() -> None:
    busy, idle = Replica(), Replica()
    busy.may_answer.clear()
    async with (
        serving(busy.handler()) as first,
        serving(idle.handler()) as second,
        replicas_of(first, second) as replicas,
    ):
        await poll_text_encoders(replicas, "", SOON)
        blocked = asyncio.ensure_future(encode(replicas))
        await until_called(busy)
        for _ in range(4):
            await encode(replicas)
        assert (busy.calls, idle.calls) == (1, 4)
        busy.may_answer.set()
        await blocked


async def test_a_call_whose_connection_fails_is_retried_once_on_another_replica() -> None:
    up = Replica()
    async with serving(up.handler()) as address, replicas_of("127.0.0.1:1", address) as replicas:
        assert await encode(replicas) == up.fingerprint  # Nothing is known of either.
        assert [*await poll_text_encoders(replicas, "", SOON)] == [address]
    async with replicas_of("127.0.0.1:1") as none:
        with pytest.raises(Unavailable):
            await encode(none)


async def test_a_replica_that_serves_an_encoder_no_more_is_asked_once_and_then_another() -> None:
    restarted, other = Replica("hybrid-1"), Replica("hybrid-1")
    async with (
        serving(restarted.handler()) as first,
        serving(other.handler()) as second,
        replicas_of(first, second) as replicas,
    ):
        await poll_text_encoders(replicas, "", SOON)
        restarted.fingerprint = "hybrid-2"
        assert {await encode(replicas, "hybrid-1") for _ in range(4)} == {"hybrid-1"}
        assert restarted.calls == 1


async def test_what_no_replica_serves_is_refused_with_what_is_served() -> None:
    replica = Replica("hybrid-1")
    async with serving(replica.handler()) as address, replicas_of(address) as replicas:
        await poll_text_encoders(replicas, "", SOON)
        with pytest.raises(FailedPrecondition, match="serves hybrid-1"):
            await encode(replicas, "hybrid-2")


@pytest.mark.parametrize("error", [Unavailable("still loading"), FailedPrecondition("no")])
async def test_after_one_retry_the_error_is_raised(error: LookalikeError) -> None:
    first, second = Replica(error=error), Replica(error=error)
    async with (
        serving(first.handler()) as one,
        serving(second.handler()) as two,
        replicas_of(one, two) as replicas,
    ):
        await poll_text_encoders(replicas, "", SOON)
        with pytest.raises(type(error)):
            await encode(replicas)
        assert (first.calls, second.calls) == (1, 1)


async def test_a_replica_that_answers_late_is_taken_to_serve_what_it_did_for_a_while() -> None:
    replica = Replica("hybrid-1")
    async with serving(replica.handler()) as address, replicas_of(address) as replicas:
        assert [*await poll_text_encoders(replicas, "", SOON)] == [address]
        replica.may_describe.clear()
        for _ in range(MAX_LATE - 1):
            assert [*await poll_text_encoders(replicas, "", 0.02)] == [address]
        assert [*await poll_text_encoders(replicas, "", 0.02)] == []
        replica.may_describe.set()
        assert [*await poll_text_encoders(replicas, "", SOON)] == [address]


async def test_replicas_come_and_go_with_the_addresses_of_their_name_and_calls_in_flight_end() -> None:
    leaving, staying = Replica("hybrid-1"), Replica("hybrid-2")
    leaving.may_answer.clear()
    async with serving(leaving.handler()) as first, serving(staying.handler()) as second:
        found: list[str] = [first]

        async def resolve(address: str) -> Sequence[str]:
            if not found:
                raise OSError("no such host")
            return found

        replicas = text_encoder_replicas(["text-encoder:50051"], resolve=resolve)
        assert [*await poll_text_encoders(replicas, "", SOON)] == [first]
        in_flight = asyncio.ensure_future(encode(replicas))
        await until_called(leaving)
        found[:] = [second]
        assert [*await poll_text_encoders(replicas, "", SOON)] == [second]
        assert await encode(replicas) == "hybrid-2"
        leaving.may_answer.set()
        assert await in_flight == "hybrid-1"
        found.clear()
        assert [*await poll_text_encoders(replicas, "", SOON)] == [second]
        await replicas.close()


async def until_called(replica: Replica) -> None:
    async with asyncio.timeout(SOON):
        while not replica.calls:  # noqa: ASYNC110  # counted by another task
            await asyncio.sleep(0.001)


async def test_a_name_is_resolved_to_all_its_addresses_and_an_address_stays_as_it_is() -> None:
    assert await resolve_address("10.0.0.7:50051") == ["10.0.0.7:50051"]
    assert await resolve_address("[::1]:50051") == ["[::1]:50051"]
    assert "127.0.0.1:50051" in await resolve_address("localhost:50051")
    with pytest.raises(OSError):  # noqa: PT011  # its message is the system's
        await resolve_address("no-such-host.invalid:50051")


@dataclass
class HangingReplica(Replica):
    """One whose calls are late, at once, as if they had waited; it answers polls while `may_describe` is set."""

    hangs: bool = False

    async def encode(self, request: pb.EncodeTextRequest, deadline: Deadline) -> pb.EncodeTextResponse:
        if self.hangs:
            self.calls += 1
            raise DeadlineExceeded("hangs")
        return await super().encode(request, deadline)


@dataclass
class Clock:
    """A clock that every look advances, so that calls take that long."""

    now_s: float = 0.0
    step_s: float = 0.0

    def __call__(self) -> float:
        self.now_s += self.step_s
        return self.now_s


async def is_encoded(replicas: TextEncoderReplicas) -> bool:
    try:
        await encode(replicas)
    except Unavailable:
        return False
    return True


async def test_a_replica_that_hangs_is_left_out_after_two_calls_and_is_back_when_it_answers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "lookalike")
    hanging, healthy, clock = HangingReplica(hangs=True), Replica(), Clock(step_s=HANGS_S)
    async with serving(hanging.handler()) as first, serving(healthy.handler()) as second:
        replicas = text_encoder_replicas([first, second], clock=clock)
        assert [await is_encoded(replicas) for _ in range(MAX_FAILURES)] == [False] * MAX_FAILURES
        clock.step_s = 0.0
        assert [await is_encoded(replicas) for _ in range(8)] == [True] * 8
        assert (hanging.calls, healthy.calls) == (MAX_FAILURES, 8)
        hanging.hangs = False
        await poll_text_encoders(replicas, "", SOON)
        assert await is_encoded(replicas)
        assert hanging.calls == MAX_FAILURES + 1
        await replicas.close()
    assert caplog.messages == [
        f"{first} is left out until it answers: DEADLINE_EXCEEDED: hangs",
        f"{first} answers again",
    ]


async def test_while_the_only_replica_hangs_calls_fail_at_once_and_one_tries_again_after_the_pause() -> None:
    hanging, clock = HangingReplica(hangs=True), Clock(step_s=HANGS_S)
    async with serving(hanging.handler()) as address:
        replicas = text_encoder_replicas([address], clock=clock)
        for _ in range(MAX_FAILURES):
            assert not await is_encoded(replicas)
        clock.step_s = 0.0
        with pytest.raises(Unavailable, match="has answered lately") as refused:
            await encode(replicas)
        assert refused.value.retry_after_s == pytest.approx(PAUSE_S)
        assert hanging.calls == MAX_FAILURES
        clock.now_s += PAUSE_S
        assert [await is_encoded(replicas) for _ in range(3)] == [False] * 3
        assert hanging.calls == MAX_FAILURES + 1
        hanging.hangs = False
        clock.now_s += PAUSE_S
        assert [await is_encoded(replicas) for _ in range(3)] == [True] * 3
        await replicas.close()


async def test_callers_that_give_up_early_say_nothing_about_a_replica() -> None:
    hanging, clock = HangingReplica(hangs=True), Clock()
    async with serving(hanging.handler()) as address:
        replicas = text_encoder_replicas([address], clock=clock)
        for _ in range(5):
            assert not await is_encoded(replicas)
        assert hanging.calls == 5
        await replicas.close()


async def test_a_replica_that_two_polls_found_silent_is_called_only_where_no_other_may_be() -> None:
    silent, healthy, clock = Replica(), Replica(), Clock()
    async with serving(silent.handler()) as first, serving(healthy.handler()) as second:
        replicas = text_encoder_replicas([first, second], clock=clock)
        await poll_text_encoders(replicas, "", SOON)
        silent.may_describe.clear()
        for _ in range(MAX_FAILURES):
            await poll_text_encoders(replicas, "", 0.05)
        clock.now_s += PAUSE_S
        healthy.may_answer.clear()
        blocked = asyncio.ensure_future(encode(replicas))
        await until_called(healthy)
        assert silent.calls == 0
        healthy.may_answer.set()
        await blocked
        await replicas.close()


async def test_a_replica_that_is_back_takes_all_calls_at_once() -> None:
    replica, clock = Replica(), Clock()
    async with serving(replica.handler()) as address:
        replicas = text_encoder_replicas([address], clock=clock)
        replica.may_describe.clear()
        for _ in range(MAX_FAILURES):
            await poll_text_encoders(replicas, "", 0.05)
        assert not await is_encoded(replicas)
        replica.may_describe.set()
        await poll_text_encoders(replicas, "", SOON)
        assert await asyncio.gather(*(is_encoded(replicas) for _ in range(8))) == [True] * 8
        await replicas.close()
