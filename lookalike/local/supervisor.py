"""A supervisor of local processes that stop together. Starts processes, writes their logs, handles signals."""

from __future__ import annotations

import contextlib
import os
import re
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
from lookalike.local.restarts import RestartBackoff

_WARNING = re.compile(r"^\S+ \S+ (WARNING|ERROR|CRITICAL) ")  # As lookalike.runtime.telemetry has them written.
LOG_TAIL_BYTES = 4096
LOG_TAIL_LINES = 15
POLL_S = 0.05
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True, kw_only=True)
class RunningProcess:
    """A started process, its log, and its readiness probe."""

    name: str
    command: Sequence[str]
    popen: subprocess.Popen[bytes]
    log: Path
    ready: Callable[[], bool]
    started_s: float
    backoff: RestartBackoff | None  # None: that it ends is an error.

    @property
    def has_ended(self) -> bool:
        return self.popen.poll() is not None


class Supervisor:
    """Starts processes, each in its own session; leaving the `with` block stops them all, the last started first.

        with Supervisor(Path("logs"), environ) as processes:
            processes.start("shard 0", [...], ready=lambda: probes.is_serving(address))
            processes.wait_ready(timeout_s=60)
            processes.watch()

    Inside the block SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does; while processes are being stopped,
    these signals are ignored. A process that ends is an error with the tail of its log, unless it is to be started
    again, which `watch` does. If the supervisor is killed with SIGKILL, the kernel kills its processes (Linux; see
    `parent_death.py`). The kernel ties them to the thread that started them, so only the main thread may start
    processes.

    directory:  working directory of the processes; None: the supervisor's own.
    stop_s:     time between SIGTERM and SIGKILL for each process; longer than servers take to drain.
    """

    def __init__(
        self, logs: Path, environ: Mapping[str, str], *, directory: Path | None = None, stop_s: float = 10.0
    ) -> None:
        self.logs = logs
        self._directory = directory
        self._environ = dict(environ)
        self._stop_s = stop_s
        self._processes: list[RunningProcess] = []
        self._restarts: list[tuple[float, RunningProcess]] = []  # When each that ended is started again.
        self._handlers: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Self:
        self.logs.mkdir(parents=True, exist_ok=True)
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup ignores SIGHUP: leave it so.
                self._handlers[number] = signal.signal(number, _interrupt)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        exit_error = self._find_exit() if isinstance(error, ServiceError) else None
        try:
            while self._processes:
                self._stop(self._processes.pop())
        finally:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
        if exit_error is not None:
            raise exit_error from error

    def start(self, name: str, command: Sequence[str], *, ready: Callable[[], bool], restart: bool = False) -> None:
        """Start a process. Its output goes to a log named after it, which is overwritten.

        restart: whether it is started again where it ends while it is watched.
        """
        self._log(name).unlink(missing_ok=True)
        self._start(name, command, ready, RestartBackoff() if restart else None)

    def _start(
        self, name: str, command: Sequence[str], ready: Callable[[], bool], backoff: RestartBackoff | None
    ) -> None:
        log = self._log(name)
        with log.open("ab") as output:
            popen = self._popen(command, stdout=output, stderr=subprocess.STDOUT)
        self._processes.append(
            RunningProcess(
                name=name,
                command=command,
                popen=popen,
                log=log,
                ready=ready,
                started_s=time.monotonic(),
                backoff=backoff,
            )
        )

    def wait_ready(self, *, timeout_s: float) -> None:
        """Wait until every process is ready. Raises as `check` if one ends; Unavailable if one is not ready in time."""
        deadline_s = time.monotonic() + timeout_s
        waiting = list(self._processes)
        while waiting := [process for process in waiting if not process.ready()]:
            self.check()
            if time.monotonic() > deadline_s:
                process = waiting[0]
                raise Unavailable(f"{process.name} is not ready after {timeout_s:g} s{_log_tail(process.log)}")
            time.sleep(POLL_S)
        self.check()  # Another server on the same port may have answered the probe of a process that has ended.

    def run(self, name: str, command: Sequence[str], *, show_stderr: bool = False) -> str:
        """Run a command to its end and return its standard output; the other processes must keep running.

        Its standard error goes to its log or, with `show_stderr`, to the terminal. Raises OperatorError if it ends
        with status 2 (the operator can fix it), Unavailable for any other failure, and as `check` if another process
        ends.
        """
        log, output = self._log(name), self.logs / f"{_file_name(name)}.out"
        with log.open("wb") as errors, output.open("wb") as out:
            popen = self._popen(command, stdout=out, stderr=None if show_stderr else errors)
        others = tuple(self._processes)
        process = RunningProcess(
            name=name,
            command=command,
            popen=popen,
            log=log,
            ready=lambda: True,
            started_s=time.monotonic(),
            backoff=None,
        )
        self._processes.append(process)
        while (status := popen.poll()) is None:
            _check(others)
            time.sleep(POLL_S)
        self._processes.remove(process)
        if status:
            reason = "; see its output above" if show_stderr else _log_tail(log)
            raise _error_type(status)(f"{name} failed, {_describe_exit(status)}{reason}")
        return output.read_text()

    def watch(self, warn: Callable[[str], object] = lambda line: None) -> NoReturn:
        """Wait until a process ends (raises as `check`) or a signal arrives (KeyboardInterrupt).

        Those that are to be started again are, after a wait.

        warn: is called with each line that a process logs as a warning or an error, and when one is started again.
        """
        read_bytes = {process.name: 0 for process in self._processes}
        while True:
            self._restart_ended(warn)
            _check([each for each in self._processes if each.backoff is None])
            for process in self._processes:
                lines, read_bytes[process.name] = _lines_after(process.log, read_bytes[process.name])
                for line in filter(_WARNING.search, lines):
                    warn(f"{process.name}: {line}")
            time.sleep(4 * POLL_S)

    def _restart_ended(self, warn: Callable[[str], object]) -> None:
        """Start processes again whose wait is over; those that have ended since wait from now on."""
        now_s = time.monotonic()
        due = [process for at_s, process in self._restarts if at_s <= now_s]
        self._restarts = [each for each in self._restarts if each[0] > now_s]
        for process in due:
            warn(f"{process.name} is started again")
            self._start(process.name, process.command, process.ready, process.backoff)
        for process in [each for each in self._processes if each.backoff is not None and each.has_ended]:
            assert process.backoff is not None  # noqa: S101  # for the type checker
            self._processes.remove(process)
            wait_s = process.backoff.next_wait_s(now_s - process.started_s)
            reason = _describe_exit(process.popen.returncode)
            warn(
                f"{process.name} ended, {reason}; it is started again in {wait_s:g} s{_log_tail(process.log, lines=3)}"
            )
            self._restarts.append((now_s + wait_s, process))

    def check(self) -> None:
        """Raise, with the tail of its log, if a process has ended: OperatorError after status 2, else Unavailable."""
        _check(self._processes)

    def pids(self) -> dict[str, int]:
        """Process ids by name, for benchmarks."""
        return {process.name: process.popen.pid for process in self._processes}

    def kill(self, name: str) -> None:
        """Send SIGKILL to a process, which can then be started again: for tests of what survives it."""
        (process,) = [each for each in self._processes if each.name == name]
        self._processes.remove(process)
        process.popen.kill()
        process.popen.wait()

    def _find_exit(self) -> LookalikeError | None:
        """The error of a process that has ended: it explains a failed call better than the call's own error does."""
        time.sleep(POLL_S)  # The connections of a process break a moment before its exit status can be read.
        try:
            self.check()
        except LookalikeError as error:
            return error
        return None

    def _popen(
        self, command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes] | int | None
    ) -> subprocess.Popen[bytes]:
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError(
                "processes are killed when the thread that started them ends: start them from the main thread"
            )
        return subprocess.Popen(  # noqa: S603  # no shell; the command comes from the calling code
            [sys.executable, "-IS", parent_death.__file__, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            cwd=self._directory,
            env=self._environ,
            start_new_session=True,  # Only the supervisor gets the terminal's Ctrl-C: it stops the processes in order.
        )

    def _stop(self, process: RunningProcess) -> None:
        """Send SIGTERM to the process and its children; SIGKILL if it still runs after `stop_s`."""
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


def _check(processes: Sequence[RunningProcess]) -> None:
    for process in processes:
        if (status := process.popen.poll()) is not None:
            raise _error_type(status)(f"{process.name} ended, {_describe_exit(status)}{_log_tail(process.log)}")


def _error_type(status: int) -> type[LookalikeError]:
    """The error that an exit status stands for (see `lookalike.cli.dispatch.run`)."""
    return OperatorError if status == 2 else Unavailable


def _file_name(name: str) -> str:
    return name.replace(" ", "-")


def _describe_exit(status: int) -> str:
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"


def _lines_after(log: Path, start: int) -> tuple[list[str], int]:
    """The whole lines of a log after `start` bytes, and the number of bytes up to their end."""
    with log.open("rb") as file:
        file.seek(start)
        data = file.read()
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode(errors="replace").splitlines(), start + len(whole)


def _log_tail(log: Path, *, lines: int = LOG_TAIL_LINES) -> str:
    """The end of a log, as the end of an error message."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - LOG_TAIL_BYTES))
        tail = file.read().decode(errors="replace").strip().splitlines()[-lines:]
    return "; its last lines ({}):\n{}".format(log, "\n".join(f"  {line}" for line in tail)) if tail else ""
