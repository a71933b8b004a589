"""What a process cannot go on without takes it along when it fails: tasks and threads alike."""

from __future__ import annotations

import asyncio
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from types import FrameType
from typing import cast

import pytest

from encoders.serving.manager import ModelManager
from encoders.serving.model_server import _start
from index.backends.device_thread import DeviceThread
from lookalike.runtime import lifecycle
from lookalike.runtime.threads import start_thread

SECONDS = 20


@dataclass
class Signals:
    """The SIGTERMs that this process has got."""

    arrived: threading.Event = field(default_factory=threading.Event)

    def __call__(self, number: int, frame: FrameType | None) -> None:
        self.arrived.set()


@pytest.fixture
def terminated() -> Iterator[threading.Event]:
    signals = Signals()
    before = signal.signal(signal.SIGTERM, signals)
    yield signals.arrived
    signal.signal(signal.SIGTERM, before)


async def fail() -> None:
    raise RuntimeError("a bug")


async def until_set(event: threading.Event) -> None:
    async with asyncio.timeout(SECONDS):
        while not event.is_set():  # noqa: ASYNC110  # set by a signal
            await asyncio.sleep(0.001)


async def test_a_background_task_that_fails_ends_the_process(
    terminated: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        async with lifecycle.background_task(fail()):
            await until_set(terminated)
    assert "a background task failed" in caplog.text


async def test_a_background_task_that_is_cancelled_does_not(terminated: threading.Event) -> None:
    async with lifecycle.background_task(asyncio.sleep(SECONDS)):
        pass
    await asyncio.sleep(0)
    assert not terminated.is_set()


def is_set_soon(event: threading.Event) -> bool:
    """Python runs a handler between two steps of the main thread, which a wait without end has none of."""
    give_up_s = time.monotonic() + SECONDS
    while not event.is_set() and time.monotonic() < give_up_s:
        time.sleep(0.001)
    return event.is_set()


def test_a_thread_that_fails_ends_the_process_and_says_which(
    terminated: threading.Event, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> None:
        raise RuntimeError("a bug")

    start_thread(broken, "exact").join(SECONDS)
    assert is_set_soon(terminated)
    assert "the thread exact failed" in caplog.text


def test_a_thread_that_ends_does_not(terminated: threading.Event) -> None:
    start_thread(lambda: None, "exact").join(SECONDS)
    assert not terminated.is_set()


def test_the_thread_of_a_device_is_one_of_them(terminated: threading.Event) -> None:
    thread = DeviceThread("gpu", max_batch=1, max_waiting=1)

    def broken() -> object:
        raise RuntimeError("a bug")

    assert thread.run_later(broken)
    assert is_set_soon(terminated)
    thread.close()


class BrokenManager:
    """A ModelManager whose watching fails."""

    async def start(self) -> None:
        """It has a model."""

    async def watch(self, poll_s: float) -> None:
        raise RuntimeError("a bug")


async def test_a_model_server_does_not_go_on_without_watching_its_models(terminated: threading.Event) -> None:
    with ExitStack() as stack:
        await _start(cast(ModelManager, BrokenManager()), 1.0, stack)
        await until_set(terminated)
