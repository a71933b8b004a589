"""Readiness probes of local servers, and free ports. Does network I/O on this machine."""

from __future__ import annotations

import atexit
import contextlib
import socket
from collections.abc import Collection
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from lookalike.channels import blocking_channel

PROBE_TIMEOUT_S = 1.0  # A server that is starting may accept a connection and not answer: probe again, do not wait.


def is_serving(address: str) -> bool:
    """Whether the gRPC server at `host:port` reports SERVING through the gRPC health protocol."""
    if not accepts_connections(address):
        return False
    with blocking_channel(address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)  # The types of HealthStub declare no methods.
        try:
            response: health_pb2.HealthCheckResponse = health.Check(
                health_pb2.HealthCheckRequest(), timeout=PROBE_TIMEOUT_S
            )
        except grpc.RpcError:
            return False
    return response.status == health_pb2.HealthCheckResponse.SERVING


def redis_answers(address: str) -> bool:
    """Whether the Redis at `host:port` answers PING."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=PROBE_TIMEOUT_S) as connection:
            connection.sendall(b"PING\r\n")
            return connection.recv(16).startswith(b"+PONG")
    except OSError:
        return False


def accepts_connections(address: str) -> bool:
    """Whether a process accepts TCP connections at `host:port`."""
    try:
        with socket.create_connection(_host_and_port(address), timeout=PROBE_TIMEOUT_S):
            return True
    except OSError:
        return False


def is_port_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen on this port now."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # As servers do: TIME_WAIT does not count.
        try:
            listener.bind((host, port))
        except OSError:
            return False
    return True


def reserve_port(port: int) -> bool:
    """Whether this free TCP port of 127.0.0.1 is this process's from now on, as those of `free_ports` are."""
    return is_port_free(port) and _reserve(port)


def free_ports(count: int, *, exclude: Collection[int] = ()) -> list[int]:
    """`count` different free TCP ports of 127.0.0.1, none of them in `exclude`.

    A server takes its port seconds after it was chosen. Until this process ends, no other one gets the same ports from
    here: each is reserved by a UDP socket of its number, which no server of ours wants.
    """
    ports: list[int] = []
    with contextlib.ExitStack() as stack:  # All listeners stay open until every port is chosen: none comes twice.
        while len(ports) < count:
            listener = stack.enter_context(socket.socket())
            listener.bind(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            if port not in exclude and _reserve(port):
                ports.append(port)
    return ports


def _reserve(port: int) -> bool:
    reservation = socket.socket(type=socket.SOCK_DGRAM)
    try:
        reservation.bind(("127.0.0.1", port))
    except OSError:  # Another process has chosen it.
        reservation.close()
        return False
    atexit.register(reservation.close)  # Which keeps it open until then.
    return True


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
