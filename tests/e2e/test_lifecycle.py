"""A serving process gets signals: it drains, or ends at once."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lookalike.channels import blocking_channel
from lookalike.local import probes
from tests.conftest import REPOSITORY
from tests.edges import IMPLEMENTATIONS

TIMEOUT_S = 60
SERVER = """
import asyncio, sys, time
from google.protobuf.wrappers_pb2 import BytesValue
from lookalike.runtime import edge, lifecycle, telemetry
from lookalike.runtime.settings import load, ProcessSettings
from tests.contract.test_edge import SERVICE, echo_each, no_stream

class EchoSettings(ProcessSettings):
    PREFIX = "LOOKALIKE_ECHO_"

async def wait(request, deadline):
    print("called", flush=True)
    await asyncio.sleep(3600)

async def warm_up():
    print("warming", flush=True)
    await asyncio.to_thread(time.sleep, float(sys.argv[2]))
    print("ready", flush=True)

settings = EchoSettings(grpc_server=sys.argv[1], port=int(sys.argv[3]), drain_s=3600)
handler = edge.handler(SERVICE, {"Unary": wait, "Stream": no_stream, "Both": echo_each})
lifecycle.run(lifecycle.serve(settings, [handler], services=(), warm_up=warm_up))
"""


@contextmanager
def process(implementation: str, *, warm_up_s: float, port: int) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", SERVER, implementation, str(warm_up_s), str(port)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as started:
        try:
            yield started
        finally:
            started.kill()


def lines_until(started: subprocess.Popen[str], last: str) -> None:
    assert started.stdout is not None
    for line in started.stdout:
        if line.strip() == last:
            return
    pytest.fail(f"the process ended before it printed {last}")


def test_a_process_that_is_stopped_while_it_warms_up_ends_although_the_warm_up_does_not() -> None:
    with process("grpcio", warm_up_s=3600, port=0) as started:
        lines_until(started, "warming")
        started.send_signal(signal.SIGTERM)
        assert started.wait(TIMEOUT_S) == 0


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_second_signal_ends_a_process_that_drains(implementation: str) -> None:
    (port,) = probes.free_ports(1)
    with process(implementation, warm_up_s=0, port=port) as started:
        lines_until(started, "ready")
        channel: Any
        with blocking_channel(f"127.0.0.1:{port}") as channel:
            call = channel.unary_unary("/edge_test.Echo/Unary").future(b"", timeout=TIMEOUT_S, wait_for_ready=True)
            lines_until(started, "called")
            started.send_signal(signal.SIGTERM)
            with pytest.raises(subprocess.TimeoutExpired):
                started.wait(0.3)
            started.send_signal(signal.SIGINT)
            assert started.wait(TIMEOUT_S) == 128 + signal.SIGINT
            call.cancel()
