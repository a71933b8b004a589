"""The supervisor of local processes, with small real processes."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lookalike.errors import OperatorError, Unavailable
from lookalike.local import probes, restarts
from lookalike.local.supervisor import Supervisor

ENVIRON = {"PATH": os.defpath}
PYTHON = [sys.executable, "-IS", "-c"]
SLEEP = [*PYTHON, "import time; time.sleep(600)"]
# Appends its name to a file shared by all when it gets SIGTERM.
POLITE = """
import signal, sys, time
def leave(*_):
    open(sys.argv[1], "a").write(sys.argv[2])
    sys.exit()
signal.signal(signal.SIGTERM, leave)
open(sys.argv[1] + sys.argv[2], "w")
time.sleep(600)
"""
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); open({!r}, 'w'); time.sleep(600)"


def pid_is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def eventually(condition: Callable[[], bool], timeout_s: float = 20) -> bool:
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.02)
    return True


@pytest.fixture
def supervisor(tmp_path: Path) -> Iterator[Supervisor]:
    with Supervisor(tmp_path / "logs", ENVIRON, stop_s=5) as processes:
        yield processes


def pids(supervisor: Supervisor) -> list[int]:
    return [process.popen.pid for process in supervisor._processes]


def test_processes_stop_in_reverse_order_however_the_block_is_left(tmp_path: Path) -> None:
    stopped = tmp_path / "stopped"
    for error in (None, KeyboardInterrupt, ValueError):
        stopped.write_text("")
        with contextlib.suppress(KeyboardInterrupt, ValueError), Supervisor(tmp_path / "logs", ENVIRON) as processes:
            for name in "abc":
                started = tmp_path / f"stopped{name}"
                started.unlink(missing_ok=True)
                processes.start(name, [*PYTHON, POLITE, str(stopped), name], ready=started.exists)
            processes.wait_ready(timeout_s=20)
            running = pids(processes)
            assert all(map(pid_is_alive, running))
            if error is not None:
                raise error
        assert stopped.read_text() == "cba"
        assert not any(map(pid_is_alive, running))


def test_a_process_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    flag = tmp_path / "ready"
    with Supervisor(tmp_path / "logs", ENVIRON, stop_s=0.2) as processes:
        processes.start("stubborn", [*PYTHON, STUBBORN.format(str(flag))], ready=flag.exists)
        processes.wait_ready(timeout_s=20)
        (pid,) = pids(processes)
    assert not pid_is_alive(pid)


def test_the_children_of_a_process_stop_with_it(tmp_path: Path) -> None:
    child = tmp_path / "child"
    code = f"import subprocess; p = subprocess.Popen({SLEEP!r}); open({str(child)!r}, 'w').write(str(p.pid)); p.wait()"
    with Supervisor(tmp_path / "logs", ENVIRON) as processes:
        processes.start(
            "parent", [sys.executable, "-I", "-c", code], ready=lambda: child.exists() and child.read_text() != ""
        )
        processes.wait_ready(timeout_s=20)
        pid = int(child.read_text())
        assert pid_is_alive(pid)
    assert eventually(lambda: not pid_is_alive(pid))


def test_a_process_that_ends_is_an_error_with_the_tail_of_its_log(supervisor: Supervisor) -> None:
    code = "import sys; print('\\n'.join(f'line {n}' for n in range(99)), flush=True); sys.exit('no such index')"
    supervisor.start("fine", SLEEP, ready=lambda: True)
    supervisor.start("shard 0", [*PYTHON, code], ready=lambda: False)
    with pytest.raises(Unavailable, match="shard 0 ended, exit status 1") as error_info:
        supervisor.wait_ready(timeout_s=20)
    assert str(error_info.value).endswith("line 98\n  no such index")
    assert "line 50\n" not in str(error_info.value)


def test_a_process_that_ends_with_status_2_is_an_operator_error(supervisor: Supervisor) -> None:
    supervisor.start("shard 0", [*PYTHON, "import sys; print('no such disk'); sys.exit(2)"], ready=lambda: False)
    with pytest.raises(OperatorError, match=r"(?s)shard 0 ended, exit status 2.*no such disk"):
        supervisor.wait_ready(timeout_s=20)


def test_a_command_that_does_not_exist_is_a_process_that_ends(supervisor: Supervisor) -> None:
    supervisor.start("nothing", ["/no/such/command"], ready=lambda: False)
    with pytest.raises(Unavailable, match="/no/such/command: No such file"):
        supervisor.wait_ready(timeout_s=20)


def test_a_process_that_is_never_ready_is_an_error(supervisor: Supervisor) -> None:
    supervisor.start("slow", SLEEP, ready=lambda: False)
    with pytest.raises(Unavailable, match=r"slow is not ready after 0\.2 s"):
        supervisor.wait_ready(timeout_s=0.2)


def test_watching_ends_when_a_process_ends(supervisor: Supervisor) -> None:
    supervisor.start("shard 1", SLEEP, ready=lambda: True)
    os.kill(pids(supervisor)[0], signal.SIGKILL)
    with pytest.raises(Unavailable, match="shard 1 ended, killed by SIGKILL"):
        supervisor.watch()


def test_a_process_that_is_to_be_started_again_is_until_one_that_is_not_ends(
    supervisor: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restarts, "FIRST_WAIT_S", 0.1)
    starts = tmp_path / "starts"
    once_more = f"import sys; open({str(starts)!r}, 'a').write('x'); print('it broke'); sys.exit(3)"
    supervisor.start("shard 0", [*PYTHON, once_more], ready=lambda: True, restart=True)
    until = f"""
import pathlib, time
starts = pathlib.Path({str(starts)!r})
while not starts.exists() or starts.stat().st_size < 3:
    time.sleep(0.02)
"""
    supervisor.start("gateway", [sys.executable, "-c", until], ready=lambda: True)
    warnings: list[str] = []
    with pytest.raises(Unavailable, match="gateway ended, exit status 0"):
        supervisor.watch(warn=warnings.append)
    ended = [each for each in warnings if each.startswith("shard 0 ended")]
    assert [each.splitlines()[0].partition(";")[0] for each in ended[:2]] == ["shard 0 ended, exit status 3"] * 2
    assert ["it is started again in 0.1 s" in ended[0], "it is started again in 0.2 s" in ended[1]] == [True, True]
    assert ended[0].endswith("it broke")
    assert warnings.count("shard 0 is started again") >= 2


def test_a_process_that_ends_before_all_are_ready_is_an_error_though_it_is_to_be_started_again(
    supervisor: Supervisor,
) -> None:
    supervisor.start("shard 0", [*PYTHON, "import sys; sys.exit('no such index')"], ready=lambda: False, restart=True)
    with pytest.raises(Unavailable, match="no such index"):
        supervisor.wait_ready(timeout_s=20)


def test_what_a_process_logs_as_a_warning_is_told_while_it_is_watched(supervisor: Supervisor) -> None:
    lines = ["2026-11-29 10:00:00,000 INFO a: fine", "2026-11-29 10:00:00,000 ERROR a: changes are missing", "ERROR"]
    script = f"import time\nprint({chr(10).join(lines)!r}, flush=True)\ntime.sleep(2)"
    supervisor.start("shard 1", [sys.executable, "-c", script], ready=lambda: True)
    warnings: list[str] = []
    with pytest.raises(Unavailable, match="shard 1 ended"):
        supervisor.watch(warn=warnings.append)
    assert warnings == ["shard 1: 2026-11-29 10:00:00,000 ERROR a: changes are missing"]


def test_a_call_that_fails_because_a_process_ended_raises_the_end_of_the_process(tmp_path: Path) -> None:
    def call() -> None:
        with Supervisor(tmp_path / "logs", ENVIRON) as processes:
            processes.start("shard 1", SLEEP, ready=lambda: True)
            os.kill(pids(processes)[0], signal.SIGKILL)
            raise Unavailable("connection reset")

    with pytest.raises(Unavailable, match="shard 1 ended, killed by SIGKILL"):
        call()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_watching_and_the_signal_handler_is_restored(tmp_path: Path, number: signal.Signals) -> None:
    def watch() -> None:
        with Supervisor(tmp_path / "logs", ENVIRON) as processes:
            threading.Timer(0.1, os.kill, (os.getpid(), number)).start()
            processes.watch()

    before = signal.signal(number, signal.default_int_handler)  # Under nohup, SIGHUP is ignored.
    try:
        with pytest.raises(KeyboardInterrupt):
            watch()
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, before)


def test_running_a_command_returns_its_output(supervisor: Supervisor) -> None:
    assert supervisor.run("update", [*PYTHON, "print('{}')"]) == "{}\n"
    assert supervisor._processes == []


def test_a_command_that_fails_raises_its_output_and_whether_the_operator_can_fix_it(supervisor: Supervisor) -> None:
    with pytest.raises(OperatorError, match=r"(?s)update failed, exit status 2.*no products"):
        supervisor.run("update", [*PYTHON, "import sys; print('no products', file=sys.stderr); sys.exit(2)"])
    with pytest.raises(Unavailable, match="update failed, exit status 1"):
        supervisor.run("update", [*PYTHON, "import sys; sys.exit(1)"])


def test_running_a_command_fails_when_another_process_ends(supervisor: Supervisor) -> None:
    supervisor.start("model server", [*PYTHON, "import sys; sys.exit('out of memory')"], ready=lambda: True)
    with pytest.raises(Unavailable, match=r"(?s)model server ended.*out of memory"):
        supervisor.run("update", SLEEP)


def test_only_the_main_thread_may_start_processes(supervisor: Supervisor) -> None:
    errors: list[RuntimeError] = []

    def start() -> None:
        try:
            supervisor.start("a", SLEEP, ready=lambda: True)
        except RuntimeError as error:
            errors.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert len(errors) == 1


def _has_become_sleep(pid: int) -> bool:
    """Whether the process is past parent_death.py, whose command line also names it; empty in the midst of exec."""
    return b"sleep(600)" in b"".join(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[3:4])


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal exists on Linux only")
def test_a_killed_supervisor_leaves_no_process_behind(tmp_path: Path) -> None:
    code = f"""
from pathlib import Path
from lookalike.local.supervisor import Supervisor
with Supervisor(Path({str(tmp_path)!r}), {{}}) as processes:
    for name in "ab":
        processes.start(name, {SLEEP!r}, ready=lambda: True)
    print(*(process.popen.pid for process in processes._processes), flush=True)
    processes.watch()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as supervisor:
        try:
            assert supervisor.stdout is not None
            running = [int(pid) for pid in supervisor.stdout.readline().split()]
            # Wait until each has become the command: before that, it might end because its supervisor is already gone.
            assert eventually(lambda: all(map(_has_become_sleep, running)))
        finally:
            supervisor.kill()  # Else leaving `with` would wait for it for ever.
    assert len(running) == 2
    assert eventually(lambda: not any(map(pid_is_alive, running)))


def test_a_server_is_serving_once_its_health_service_says_so(supervisor: Supervisor) -> None:
    (port,) = probes.free_ports(1)
    assert probes.is_port_free(port)
    assert not probes.is_serving(f"127.0.0.1:{port}")
    code = f"""
import asyncio, dataclasses
from lookalike.runtime import lifecycle
from lookalike.runtime import settings
class Settings(settings.ProcessSettings):
    PREFIX = "TEST_"
asyncio.run(lifecycle.serve(Settings(port={port}), [], services=["some.Service"]))
"""
    supervisor.start("server", [sys.executable, "-c", code], ready=lambda: probes.is_serving(f"127.0.0.1:{port}"))
    supervisor.wait_ready(timeout_s=30)
    assert not probes.is_port_free(port)
    assert not probes.redis_answers(f"127.0.0.1:{port}")


def test_a_port_that_one_process_has_chosen_is_chosen_by_no_other() -> None:
    chosen = set(probes.free_ports(20))
    for port in chosen:
        with socket.socket(type=socket.SOCK_DGRAM) as another, pytest.raises(OSError, match="in use"):
            another.bind(("127.0.0.1", port))
        assert probes.is_port_free(port)
    code = "from lookalike.local import probes; print(*probes.free_ports(300))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert not chosen & set(map(int, ended.stdout.split()))


def test_free_ports_are_different_ports() -> None:
    assert len(set(probes.free_ports(20))) == 20
