"""grpcio's asyncio server, which one call whose path is no UTF-8 would end for everybody. gRPC; no other I/O."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Any

import grpc
import grpc.aio
from grpc._cython import cygrpc
from grpc.aio import _server as grpcio

log = logging.getLogger(__name__)

_REBIND_S = 0.01  # Between attempts to listen again; the port is free when the old server has closed it.
_LAST_CALLS_S = 30.0  # For the calls that the old server has begun.


def grpcio_server(handlers: Sequence[grpc.GenericRpcHandler], options: Sequence[tuple[str, Any]]) -> grpc.aio.Server:
    """As `grpc.aio.server`."""
    server: Any = GrpcioServer(handlers, options)  # Which is one, but not to the stubs.
    made: grpc.aio.Server = server
    return made


class GrpcioServer(grpcio.Server):
    """As `grpc.aio.server` makes it, but it goes on after a call whose path is no UTF-8.

    The loop of grpcio's server (1.85) ends then, the port is closed, and the process stays as if nothing had happened.
    A loop cannot be begun twice, so another server takes over the port, within some hundredths of a second; the old one
    finishes the calls that it has begun. That call itself is CANCELLED. For one event loop.
    """

    def __init__(self, handlers: Sequence[grpc.GenericRpcHandler], options: Sequence[tuple[str, Any]]) -> None:
        self._loop = cygrpc.get_working_loop()
        self._handlers = [*handlers]
        self._arguments = grpcio._augment_channel_arguments(options, None)
        self._ports: list[Callable[[Any], int]] = []  # What listens, on a server.
        self._broken: set[_Core] = set()
        self._replacing: asyncio.Task[None] | None = None
        self._stopping = False
        self._server = self._new_server()

    def _new_server(self) -> _Core:
        core = _Core(self._loop, None, self._handlers, (), self._arguments, None)
        core.on_broken = self._begin_to_replace
        return core

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Sequence[grpc.GenericRpcHandler]) -> None:
        self._handlers += generic_rpc_handlers
        super().add_generic_rpc_handlers(generic_rpc_handlers)

    def add_insecure_port(self, address: str) -> int:
        port: int = super().add_insecure_port(address)
        bound = _bound(address, port).encode()
        self._ports.append(lambda server: server.add_insecure_port(bound))
        return port

    def add_secure_port(self, address: str, server_credentials: grpc.ServerCredentials) -> int:
        port: int = super().add_secure_port(address, server_credentials)
        bound = _bound(address, port).encode()
        self._ports.append(lambda server: server.add_secure_port(bound, server_credentials))
        return port

    async def stop(self, grace: float | None) -> None:
        if self._replacing is not None:
            self._replacing.cancel()
        self._stopping = True
        await asyncio.gather(super().stop(grace), *(each.shutdown(grace) for each in self._broken))

    def _begin_to_replace(self) -> None:
        if not self._stopping:
            self._replacing = self._loop.create_task(self._replace(self._server))

    async def _replace(self, broken: _Core) -> None:
        log.warning("a call whose path is no UTF-8 has ended grpcio's server; another one takes over")
        self._broken.add(broken)
        ending = self._loop.create_task(broken.shutdown(_LAST_CALLS_S))
        ending.add_done_callback(lambda _: self._broken.discard(broken))
        while True:
            await asyncio.sleep(_REBIND_S)
            server = self._new_server()  # One that could not listen once never can.
            try:
                for listen in self._ports:
                    listen(server)
                break
            except RuntimeError:  # The broken one has not closed it yet.
                continue
        self._server = server
        await server.start()


class _Core(cygrpc.AioServer):  # type: ignore[misc]  # as above
    on_broken: Callable[[], None]

    async def _server_main_loop(self, server_started: asyncio.Future[Any]) -> None:
        try:
            await super()._server_main_loop(server_started)
        except UnicodeDecodeError:
            self.on_broken()


def _bound(address: str, port: int) -> str:
    """The address with the port that was found free, where it has 0."""
    return f"{address.removesuffix(':0')}:{port}" if address.endswith(":0") else address
