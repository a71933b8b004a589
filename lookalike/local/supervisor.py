"""Local processes that live and die together. Starts processes, writes their logs, takes over the signals."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, NoReturn, Self

from lookalike.errors import LookalikeError, OperatorError, ServiceError, Unavailable
from lookalike.local import parent_death

TAIL_BYTES = 4096
TAIL_LINES = 15
POLL_S = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class Process:
    name: str
    popen: subprocess.Popen[bytes]
    log: Path
    ready: Callable[[], bool]


class Supervisor:
    """Starts processes, each in a session of its own, and stops all of them, the last one first, when it is left.

        with Supervisor(Path("logs"), environ) as processes:
            processes.start("shard 0", [...], ready=lambda: probes.is_serving(address))
            processes.wait_ready(timeout_s=60)
            processes.watch()

    SIGTERM and SIGHUP are KeyboardInterrupt inside, like Ctrl-C; while it stops, signals wait. Nothing is started
    again: a process that dies is an error with its last words. Killed with SIGKILL it takes its processes along
    (Linux; see `leash`): the kernel ties them to the thread that started them, hence: the main thread only.

    directory: where the processes run; the supervisor's own unless given.
    stop_s: time between SIGTERM and SIGKILL for each process; more than what servers take to drain.
    """

    def __init__(
        self, logs: Path, environ: Mapping[str, str], *, directory: Path | None = None, stop_s: float = 10.0
    ) -> None:
        self.logs = logs
        self._directory = directory
        self._environ = dict(environ)
        self._stop_s = stop_s
        self._processes: list[Process] = []
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # As nohup asks for.
                self._handlers[number] = signal.signal(number, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        died = self._death() if isinstance(error, ServiceError) else None
        try:
            while self._processes:
                self._stop(self._processes.pop())
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        if died is not None:
            raise died from error

    def start(self, name: str, command: Sequence[str], *, ready: Callable[[], bool]) -> None:
        """Start a process; its output goes to a log of its name, begun anew."""
        log = self._log(name)
        with log.open("wb") as output:
            popen = self._popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._processes.append(Process(name=name, popen=popen, log=log, ready=ready))

    def wait_ready(self, *, timeout_s: float) -> None:
        """Until all that were started are ready. Raises as `check` when one dies; Unavailable if not ready in time."""
        give_up_s = time.monotonic() + timeout_s
        waiting = list(self._processes)
        while waiting := [process for process in waiting if not process.ready()]:
            self.check()
            if time.monotonic() > give_up_s:
                late = waiting[0]
                raise Unavailable(f"{late.name} is not ready after {timeout_s:g} s{_last_words(late.log)}")
            time.sleep(POLL_S)
        self.check()  # Whoever answered the probe, it was not a process that is gone.

    def run(self, name: str, command: Sequence[str], *, shown: bool = False) -> str:
        """Run a command to its end, while the others live; returns its standard output.

        Its standard error goes to its log or, `shown`, to the terminal. Raises OperatorError when it ends with
        status 2 (an operator can mend it), else Unavailable.
        """
        log, output = self._log(name), self.logs / f"{_file_name(name)}.out"
        with log.open("wb") as errors, output.open("wb") as out:
            popen = self._popen(command, stdout=out, stderr=None if shown else errors)
        others = tuple(self._processes)
        self._processes.append(process := Process(name=name, popen=popen, log=log, ready=lambda: True))
        while (status := popen.poll()) is None:
            _check(others)
            time.sleep(POLL_S)
        self._processes.remove(process)
        if status:
            raise _kind(status)(
                f"{name} failed, {_described(status)}{'; it said why above' if shown else _last_words(log)}"
            )
        return output.read_text()

    def watch(self) -> NoReturn:
        """Until one of them dies (raises as `check`) or a signal comes (KeyboardInterrupt)."""
        while True:
            self.check()
            time.sleep(4 * POLL_S)

    def check(self) -> None:
        """Raises, with its last words, when a process is gone: OperatorError after status 2, else Unavailable."""
        _check(self._processes)

    def pids(self) -> dict[str, int]:
        """Process ids by name, for whoever measures."""
        return {process.name: process.popen.pid for process in self._processes}

    def _death(self) -> LookalikeError | None:
        """Of the process that is gone, if one is: a call that failed meanwhile only tells that somebody is."""
        time.sleep(POLL_S)  # Its connections break a moment before it can be waited for.
        try:
            self.check()
        except LookalikeError as death:
            return death
        return None

    def _popen(
        self, command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes] | int | None
    ) -> subprocess.Popen[bytes]:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("processes die with the thread that starts them: start them from the main thread")
        return subprocess.Popen(  # noqa: S603  # no shell; what the code that calls this composed
            [sys.executable, "-IS", parent_death.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=self._directory,
            env=self._environ,
            start_new_session=True,  # A Ctrl-C in the terminal is the supervisor's alone: it stops them in order.
        )

    def _stop(self, process: Process) -> None:
        """SIGTERM to the process and all it started; SIGKILL to what is still there after `stop_s`."""
        popen = process.popen
        if popen.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(popen.pid, signal.SIGTERM)
            try:
                popen.wait(self._stop_s)
            except subprocess.TimeoutExpired:
                os.killpg(popen.pid, signal.SIGKILL)
                popen.wait()

    def _log(self, name: str) -> Path:
        return self.logs / f"{_file_name(name)}.log"


def _interrupt(number: int, frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _check(processes: Sequence[Process]) -> None:
    for process in processes:
        if (status := process.popen.poll()) is not None:
            raise _kind(status)(f"{process.name} ended, {_described(status)}{_last_words(process.log)}")


def _kind(status: int) -> type[LookalikeError]:
    """Of the error of a process that ended so (lookalike/cli.py)."""
    return OperatorError if status == 2 else Unavailable


def _file_name(name: str) -> str:
    return name.replace(" ", "-")


def _described(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _last_words(log: Path) -> str:
    """The end of a log, as the end of an error message."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode(errors="replace").strip().splitlines()[-TAIL_LINES:]
    return "; its last lines ({}):\n{}".format(log, "\n".join(f"  {line}" for line in lines)) if lines else ""
