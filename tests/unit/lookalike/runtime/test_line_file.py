"""A file of whole lines: its bound, a full disk, and the end of its process at any moment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lookalike.errors import BadSettings, OperatorError
from lookalike.runtime.line_file import LineFile
from tests.unit.index.test_write_ahead_log import limit_file_size


def open_file(path: Path, max_bytes: int = 1 << 20, files: int = 3) -> LineFile:
    return LineFile(path, max_bytes=max_bytes, files=files)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_a_line_is_in_the_file_when_it_is_appended_and_only_its_owner_reads_it(path: Path) -> None:
    file = open_file(path)
    file.append(b"one\n")
    assert path.read_bytes() == b"one\n"
    assert path.stat().st_mode & 0o777 == 0o600
    file.sync()
    file.close()


def test_a_process_goes_on_where_the_one_before_ended(path: Path) -> None:
    for line in (b"one\n", b"two\n"):
        file = open_file(path)
        file.append(line)
        file.close()
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("torn", [b"tw", b"x" * 200_000])
def test_a_line_that_a_failing_machine_left_without_its_end_is_cut_off(path: Path, torn: bytes) -> None:
    path.write_bytes(b"one\n" + torn)
    file = open_file(path)
    file.append(b"three\n")
    file.close()
    assert path.read_bytes() == b"one\nthree\n"


def test_files_are_bounded_in_size_and_number(path: Path) -> None:
    file = open_file(path, max_bytes=10, files=3)
    for number in range(9):
        file.append(b"%04d\n" % number)
    file.close()
    kept = {each.name: each.read_bytes() for each in path.parent.iterdir()}
    assert kept == {
        "audit.log": b"0008\n",
        "audit.log.1": b"0006\n0007\n",
        "audit.log.2": b"0004\n0005\n",
    }


def test_one_file_alone_is_replaced(path: Path) -> None:
    file = open_file(path, max_bytes=10, files=1)
    for number in range(5):
        file.append(b"%04d\n" % number)
    file.close()
    assert [each.read_bytes() for each in path.parent.iterdir()] == [b"0004\n"]


def test_two_processes_with_one_file_are_a_mistake_also_after_a_rotation(path: Path) -> None:
    file = open_file(path, max_bytes=4)
    for _ in range(2):
        file.append(b"one\n")
        with pytest.raises(BadSettings, match="another process writes to it"):
            open_file(path)
    file.close()
    open_file(path).close()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(OperatorError, match=r"no/audit\.log: No such file or directory"):
        open_file(tmp_path / "no" / "audit.log")


def test_a_full_disk_leaves_no_part_of_a_line_and_the_next_succeeds(path: Path) -> None:
    file = open_file(path)
    file.append(b"one\n")
    with limit_file_size(8), pytest.raises(OSError, match="File too large"):
        file.append(b"a line that does not fit\n")
    file.append(b"two\n")
    file.close()
    assert path.read_bytes() == b"one\ntwo\n"


def test_a_rotation_for_which_there_is_no_room_changes_nothing(path: Path) -> None:
    file = open_file(path, max_bytes=10)
    file.append(b"12345678\n")
    path.with_name("audit.log.new").mkdir()
    with pytest.raises(OSError, match="Is a directory"):
        file.append(b"more\n")
    path.with_name("audit.log.new").rmdir()
    file.append(b"more\n")
    file.close()
    assert (path.read_bytes(), path.with_name("audit.log.1").read_bytes()) == (b"more\n", b"12345678\n")


_WRITER = """
import json, sys
from pathlib import Path
from lookalike.runtime.line_file import LineFile
file = LineFile(Path(sys.argv[1]), max_bytes=200_000, files=1000)
for number in range(10**9):
    file.append(json.dumps({"number": number, "text": "x" * (number * 37 % 5000)}).encode() + b"\\n")
    print(number, flush=True)
"""


def test_whenever_its_process_is_killed_lines_are_whole_and_none_that_was_appended_is_lost(path: Path) -> None:
    last = -1
    for lived_s in (0.02, 0.05, 0.08):
        child = subprocess.Popen([sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(lived_s)
        os.kill(child.pid, signal.SIGKILL)
        last = int(child.stdout.read().splitlines()[-1])
        child.wait()
        child.stdout.close()
        open_file(path).close()
        files = [*sorted(path.parent.glob("audit.log.[0-9]*"), key=lambda each: -int(each.suffix[1:])), path]
        numbers = [json.loads(line)["number"] for each in files for line in each.read_text().splitlines()]
        assert numbers[-1] >= last
        for each in path.parent.iterdir():
            each.unlink()
    assert last > 0
