from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from lookalike.runtime import hang_guard
from lookalike.runtime.hang_guard import HangGuard, Hung


class Channel:
    """Fakes a channel to a server that answers probes while it runs."""

    def __init__(self, code: grpc.StatusCode | None = None) -> None:
        self.code = code
        self.probes = 0

    def unary_unary(self, method: str) -> Any:
        async def probe(request: bytes, timeout: float) -> bytes:  # noqa: ASYNC109  # grpcio's parameter
            self.probes += 1
            await asyncio.sleep(0)
            if self.code is not None:
                raise grpc.aio.AioRpcError(self.code, grpc.aio.Metadata(), grpc.aio.Metadata())
            return b""

        return probe


def guard_of(channel: Channel, monkeypatch: pytest.MonkeyPatch) -> HangGuard:
    monkeypatch.setattr(hang_guard, "SILENT_S", 0.01)
    return HangGuard(channel, "encoder")  # type: ignore[arg-type]  # a fake


async def late(reply: str) -> str:
    await asyncio.sleep(0.1)
    return reply


@pytest.mark.parametrize("code", [None, grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.UNAVAILABLE])
async def test_a_server_that_answers_a_probe_by_whatever_status_is_waited_for(
    code: grpc.StatusCode | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = Channel(code)
    assert await guard_of(channel, monkeypatch).call(late("reply")) == "reply"
    assert channel.probes > 1


async def test_calls_to_a_server_that_answers_no_probe_are_given_up_together(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel(grpc.StatusCode.DEADLINE_EXCEEDED)
    guard = guard_of(channel, monkeypatch)
    calls = [asyncio.ensure_future(asyncio.sleep(3600)) for _ in range(3)]
    async with asyncio.timeout(30):
        errors = await asyncio.gather(*map(guard.call, calls), return_exceptions=True)
    assert [type(each) for each in errors] == [Hung] * 3
    assert all(call.cancelled() for call in calls)
    assert channel.probes == 1


async def test_a_call_that_is_answered_at_once_probes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    channel = Channel()

    async def fails() -> str:
        raise ValueError("a bug")

    assert await guard_of(channel, monkeypatch).call(asyncio.sleep(0, "reply")) == "reply"
    with pytest.raises(ValueError, match="a bug"):
        await guard_of(channel, monkeypatch).call(fails())
    assert channel.probes == 0


async def test_a_caller_that_gives_up_cancels_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    call = asyncio.ensure_future(asyncio.sleep(3600))
    caller = asyncio.ensure_future(guard_of(Channel(), monkeypatch).call(call))
    await asyncio.sleep(0)
    caller.cancel()
    await asyncio.wait([call, caller])
    assert call.cancelled()
    assert caller.cancelled()
