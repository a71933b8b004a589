"""Open streams: how many one key may have, and how those end whose key is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, cast

import pytest

from lookalike.errors import Overloaded, Unauthenticated
from lookalike.runtime.call import NO_CALL, Call, Caller, begin
from lookalike.runtime.deadline import Deadline
from server.admission import Permit
from server.open_streams import OpenStreams

NEVER = Deadline.after(None)
NO_PERMIT = cast(Permit, None)


@contextmanager
def caller(id_: str) -> Iterator[None]:
    call = Call("")
    call.caller = Caller(id_, frozenset({"search"}))
    begin(call, None)
    try:
        yield
    finally:
        begin(NO_CALL, None)


def revoked(call: Call) -> None:
    if call.caller.id == "revoked":
        raise Unauthenticated("no valid API key")


async def test_one_key_has_half_of_the_streams_and_the_others_have_the_rest() -> None:
    streams = OpenStreams(8)
    with ExitStack() as opened:
        with caller("greedy"):
            for _ in range(4):
                opened.enter_context(streams.one_more())
            with pytest.raises(Overloaded, match="of this key"):
                opened.enter_context(streams.one_more())
        with caller("polite"):
            for _ in range(4):
                opened.enter_context(streams.one_more())
            with pytest.raises(Overloaded, match="the limit is 8"):
                opened.enter_context(streams.one_more())


async def test_without_keys_one_caller_may_have_all_streams() -> None:
    streams = OpenStreams(8)
    with ExitStack() as opened:
        for _ in range(8):
            opened.enter_context(streams.one_more())


async def test_a_call_that_waits_ends_with_the_refusal_of_its_key_and_the_others_go_on() -> None:
    streams = OpenStreams(8)

    async def wait(id_: str) -> None:
        with caller(id_), streams.one_more():
            await asyncio.Event().wait()

    ends, stays = asyncio.create_task(wait("revoked")), asyncio.create_task(wait("kept"))
    await asyncio.sleep(0)
    streams.renew(revoked)
    with pytest.raises(Unauthenticated):
        await ends
    assert not stays.done()
    stays.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stays


async def test_a_call_with_many_replies_ends_before_the_next_one() -> None:
    streams = OpenStreams(8)

    async def handler(request: Any, deadline: Deadline, permit: Permit) -> AsyncGenerator[bytes, None]:
        for number in range(3):
            yield b"%d" % number

    with caller("revoked"):
        replies = streams.replying(handler)(b"", NEVER, NO_PERMIT)
        assert await anext(replies) == b"0"
        streams.renew(revoked)
        with pytest.raises(Unauthenticated):
            await anext(replies)
    streams.renew(revoked)  # It is not checked any more.
