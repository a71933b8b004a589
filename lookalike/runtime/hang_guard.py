"""Gives up calls to a server that hangs, long before their deadlines. Network I/O (gRPC)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

import grpc
import grpc.aio

from lookalike.errors import Unavailable

Reply = TypeVar("Reply")

SILENT_S = 0.5  # A call that is not answered for so long starts a probe.
PROBE_S = 1.0  # A server that runs answers a probe sooner, a busy one, too: it does nothing for it.
_PROBE = "/grpc.health.v1.Health/Check"  # Any answer tells that it runs: that it has no such method, too.


class Hung(Unavailable):
    """The server answers neither the call nor a probe: its process is stopped, or its machine is gone."""


class HangGuard:
    """Looks after the calls of one channel, to the server of this name; for use on one event loop."""

    def __init__(self, channel: grpc.aio.Channel, name: str) -> None:
        self._name = name
        self._ask: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(_PROBE)
        self._probe: asyncio.Task[bool] | None = None  # One for all calls that wait.

    async def call(self, sent: Awaitable[Reply]) -> Reply:
        """The reply to a call. Raises what it raises, and Hung: then it is cancelled."""
        call = asyncio.ensure_future(sent)
        try:
            while not (await asyncio.wait([call], timeout=SILENT_S))[0]:
                if self._probe is None or self._probe.done():
                    self._probe = asyncio.create_task(self._is_answered())
                await asyncio.wait([call, self._probe], return_when=asyncio.FIRST_COMPLETED)
                if self._probe.done() and not self._probe.result() and not call.done():
                    hung = Hung(f"{self._name} hangs: it answers neither a call nor a probe")
                    raise hung.hidden_as("a server that the request needs does not answer")
            return call.result()
        finally:
            call.cancel()  # No effect where it is done.

    async def _is_answered(self) -> bool:
        try:
            await self._ask(b"", timeout=PROBE_S)
        except grpc.aio.AioRpcError as error:
            return error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED
        return True
