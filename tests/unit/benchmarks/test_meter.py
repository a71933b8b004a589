"""Load and the figures of processes."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys

from benchmarks import meter


async def test_a_closed_loop_makes_every_call_with_as_many_in_flight_as_it_says() -> None:
    made: list[int] = []
    in_flight = most = 0

    async def call(i: int) -> None:
        nonlocal in_flight, most
        in_flight += 1
        most = max(most, in_flight)
        await asyncio.sleep(0)
        made.append(i)
        in_flight -= 1

    load = await meter.closed_loop(call, range(20), 4, [])
    assert (sorted(made), most, load.calls) == (list(range(20)), 4, 20)


async def test_the_latency_of_an_open_loop_counts_from_when_a_call_was_due() -> None:
    """One call at a time, each of 20 ms, due every 1 ms: the last waits for all before it."""
    turn = asyncio.Lock()

    async def call(i: int) -> None:
        async with turn:
            await asyncio.sleep(0.02)

    load = await meter.open_loop(call, 10, 1_000, [])
    assert load.calls == 10
    assert load.p99_ms > 150


def test_cpu_time_includes_children_that_have_ended() -> None:
    before_s = meter.cpu_s(os.getpid())
    subprocess.run([sys.executable, "-c", "sum(range(5_000_000))"], check=True)
    assert meter.cpu_s(os.getpid()) - before_s >= 0.02


def test_processes_are_found_with_their_children_and_by_the_port_that_they_listen_on() -> None:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        assert child.pid in meter.with_children([os.getpid()])
        with socket.create_server(("127.0.0.1", 0)) as listener:
            assert meter.listening(listener.getsockname()[1]) == os.getpid()
    finally:
        child.kill()
        child.wait()
    assert child.pid not in meter.with_children([os.getpid()])


def test_a_process_that_has_ended_has_no_memory() -> None:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    own = meter.memory([os.getpid()])
    assert meter.memory([child.pid]).pss_bytes == 0
    assert own.rss_bytes >= own.pss_bytes > own.own_bytes > 0
