"""Channels that open another connection when the files of their certificates change. Network I/O (gRPC).

Calls that are under way end on the old connection, and new ones begin on the new: a rotation of certificates fails no
call. Stubs are made once, and know nothing of it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any, Self

import grpc
import grpc.aio

from lookalike.tls import PemFiles, Pems

CLOSE_S = 300.0  # In which the calls on a connection of the old certificates may end.


class _Method:
    """A method of a stub: calls that of the channel which is in use."""

    def __init__(self, current: Callable[[], Any], make: Callable[[Any], Callable[..., Any]]) -> None:
        self._current = current
        self._make = make
        self._made: tuple[object, Callable[..., Any]] | None = None

    def __call__(self, *arguments: Any, **keywords: Any) -> Any:
        return self._of_channel()(*arguments, **keywords)

    def __getattr__(self, name: str) -> Any:  # `future` and `with_call` of a blocking one.
        return getattr(self._of_channel(), name)

    def _of_channel(self) -> Callable[..., Any]:
        channel = self._current()
        made = self._made
        if made is None or made[0] is not channel:
            self._made = made = (channel, self._make(channel))
        return made[1]


class RenewedAioChannel(grpc.aio.Channel):
    """For one event loop. connect: opens a channel with what the files contain."""

    def __init__(self, files: PemFiles, connect: Callable[[Pems], grpc.aio.Channel]) -> None:
        self._files = files
        self._connect = connect
        self._pems = files.current()
        self._channel = connect(self._pems)
        self._closing: set[asyncio.Task[None]] = set()  # The event loop holds tasks only weakly.

    def current(self) -> grpc.aio.Channel:
        if (pems := self._files.current()) is not self._pems:
            old, self._channel, self._pems = self._channel, self._connect(pems), pems
            closing = asyncio.ensure_future(old.close(CLOSE_S))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
        return self._channel

    def unary_unary(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.unary_unary(*arguments, **keywords))

    def unary_stream(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.unary_stream(*arguments, **keywords))

    def stream_unary(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.stream_unary(*arguments, **keywords))

    def stream_stream(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.stream_stream(*arguments, **keywords))

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        return self._channel.get_state(try_to_connect)

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        await self._channel.wait_for_state_change(last_observed_state)

    async def channel_ready(self) -> None:
        await self._channel.channel_ready()

    async def close(self, grace: float | None = None) -> None:
        for closing in self._closing:
            closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        await self._channel.close(grace)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


class RenewedChannel(grpc.Channel):
    """As `RenewedAioChannel`, for threads."""

    def __init__(self, files: PemFiles, connect: Callable[[Pems], grpc.Channel]) -> None:
        self._files = files
        self._connect = connect
        self._pems = files.current()
        self._channel = connect(self._pems)
        self._lock = threading.Lock()
        self._closing: list[tuple[threading.Timer, grpc.Channel]] = []

    def current(self) -> grpc.Channel:
        if self._files.current() is not self._pems:
            with self._lock:
                if (pems := self._files.current()) is not self._pems:
                    timer = threading.Timer(CLOSE_S, self._channel.close)
                    timer.daemon = True
                    timer.start()
                    self._closing = [each for each in self._closing if each[0].is_alive()]
                    self._closing.append((timer, self._channel))
                    self._channel, self._pems = self._connect(pems), pems
        return self._channel

    def unary_unary(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.unary_unary(*arguments, **keywords))

    def unary_stream(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.unary_stream(*arguments, **keywords))

    def stream_unary(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.stream_unary(*arguments, **keywords))

    def stream_stream(self, *arguments: Any, **keywords: Any) -> Any:
        return _Method(self.current, lambda channel: channel.stream_stream(*arguments, **keywords))

    def subscribe(self, callback: Callable[[grpc.ChannelConnectivity], None], try_to_connect: bool = False) -> None:
        self._channel.subscribe(callback, try_to_connect)

    def unsubscribe(self, callback: Callable[[grpc.ChannelConnectivity], None]) -> None:
        self._channel.unsubscribe(callback)

    def close(self) -> None:
        with self._lock:
            for timer, old in self._closing:
                timer.cancel()
                old.close()
            self._closing = []
            self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
