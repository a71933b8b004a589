"""Behaviour that the manifests rely on: the health service that probes call, and calls that spread over all pods."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

import grpc
import pytest
from google.protobuf.empty_pb2 import Empty
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike.channels import aio_channel
from lookalike.runtime import edge, lifecycle
from lookalike.runtime.settings import ProcessSettings

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class SomeSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_SOME_"


async def health_of(port: int, service: str) -> int:
    async with aio_channel(f"127.0.0.1:{port}") as channel:
        check = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # the published types lack it
        response = await check(health_pb2.HealthCheckRequest(service=service), wait_for_ready=True, timeout=10)
        return int(response.status)


@asynccontextmanager
async def serving(warm_up: Callable[[], Awaitable[None]]) -> Any:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = asyncio.create_task(
        lifecycle.serve(SomeSettings(port=port, drain_s=0), (), services=("some.Service",), warm_up=warm_up)
    )
    try:
        yield port
    finally:
        process.cancel()
        with pytest.raises(asyncio.CancelledError):
            await process


async def test_a_process_that_is_warming_up_is_alive_and_not_ready() -> None:
    async with serving(asyncio.Event().wait) as port:  # type: ignore[arg-type]  # never ends, returns nothing of use
        assert await health_of(port, "grpc.health.v1.Health") == SERVING
        assert await health_of(port, "") == NOT_SERVING
        assert await health_of(port, "some.Service") == NOT_SERVING


async def test_a_process_that_is_warm_is_ready() -> None:
    async def nothing_to_do() -> None:
        return None

    async with serving(nothing_to_do) as port:
        for _ in range(1000):
            if await health_of(port, "") == SERVING:
                break
            await asyncio.sleep(0.01)
        assert await health_of(port, "") == SERVING
        assert await health_of(port, "grpc.health.v1.Health") == SERVING


async def test_calls_through_a_name_with_several_addresses_go_to_all_of_them() -> None:
    servers, ports = [], []
    for name in ("a", "b"):
        servers.append(edge.server((_name_handler(name.encode()),)))
        ports.append(servers[-1].add_insecure_port("127.0.0.1:0"))
        await servers[-1].start()
    try:
        async with aio_channel("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports)) as channel:
            get_name: Any = channel.unary_unary("/test.Names/GetName", lambda empty: empty.SerializeToString())
            answers = {await get_name(Empty(), wait_for_ready=True, timeout=10) for _ in range(50)}
        assert answers == {b"a", b"b"}
    finally:
        await asyncio.gather(*(server.stop(None) for server in servers))


def _name_handler(name: bytes) -> grpc.GenericRpcHandler:
    async def get_name(request: bytes, context: Any) -> bytes:
        return name

    return grpc.method_handlers_generic_handler(
        "test.Names", {"GetName": grpc.unary_unary_rpc_method_handler(get_name)}
    )
