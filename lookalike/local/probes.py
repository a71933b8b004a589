"""Whether local servers are ready, and which ports are free. The network of this machine."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike.channels import blocking_channel

PROBE_S = 1.0  # A server that is busy starting may accept and not answer: ask again rather than wait.


def is_serving(address: str) -> bool:
    """Whether the gRPC server at `host:port` says SERVING."""
    if not accepts_connections(address):
        return False
    with blocking_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # Its type stub names no methods.
        try:
            reply: health_pb2.HealthCheckResponse = health.Check(health_pb2.HealthCheckRequest(), timeout=PROBE_S)
        except grpc.RpcError:
            return False
    return reply.status == health_pb2.HealthCheckResponse.SERVING


def redis_answers(address: str) -> bool:
    """Whether the Redis at `host:port` answers PING."""
    try:
        with socket.create_connection(_pair(address), timeout=PROBE_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def accepts_connections(address: str) -> bool:
    """Whether anybody accepts connections at `host:port`."""
    try:
        with socket.create_connection(_pair(address), timeout=PROBE_S):
            return True
    except OSError:
        return False


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As servers do: TIME_WAIT does not count.
        try:
            taken.bind((host, port))
        except OSError:
            return False
    return True


def free_ports(count: int, *, exclude: Collection[int] = ()) -> list[int]:
    """Different free ports of 127.0.0.1, none of those in `exclude`; all are held while they are chosen."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count + len(exclude))]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        ports = [one.getsockname()[1] for one in sockets]
    return [port for port in ports if port not in exclude][:count]


def _pair(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
