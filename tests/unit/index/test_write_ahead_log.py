"""The write-ahead log: acknowledged frames are read again, a torn end is cut off, damage is reported."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from index.live.write_ahead_log import MAGIC, WriteAheadLog, read_frames
from lookalike.errors import BadArtifact

PAYLOADS = [b"one", b"", b"three" * 1000]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A log of three frames."""
    log = WriteAheadLog.create(tmp_path / "log")
    for payload in PAYLOADS:
        log.append(payload)
    log.close()
    return log.path


def read(path: Path, *, last: bool = True) -> list[bytes]:
    return [payload for payload, _ in read_frames(path, last=last)]


def ends(path: Path) -> list[int]:
    return [len(MAGIC), *(end for _, end in read_frames(path, last=True))]


def test_frames_are_read_in_the_order_they_were_appended(path: Path) -> None:
    assert read(path) == read(path, last=False) == PAYLOADS


def test_after_a_torn_write_the_whole_frames_before_it_are_read_and_appending_goes_on(path: Path) -> None:
    original, marks = path.read_bytes(), ends(path)
    for size in (*range(60), *range(len(original) - 20, len(original))):
        path.write_bytes(original[:size])
        kept = sum(mark <= size for mark in marks) - 1
        assert read(path) == PAYLOADS[: max(0, kept)]
        log = WriteAheadLog.reopen(path, marks[kept] if kept >= 0 else 0)
        log.append(b"later")
        log.close()
        assert read(path) == [*PAYLOADS[: max(0, kept)], b"later"]


def test_a_torn_end_of_an_earlier_log_is_damage(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadArtifact, match=r"log: truncated at byte \d+"):
        read(path, last=False)


def test_zeros_at_the_end_after_a_power_cut_are_cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes() + bytes(5000))
    assert read(path) == PAYLOADS


def test_any_flipped_bit_is_reported_as_damage(path: Path) -> None:
    original = path.read_bytes()
    for at in (*range(45), len(original) - 1):
        for bit in (0, 7):
            path.write_bytes(original[:at] + bytes([original[at] ^ 1 << bit]) + original[at + 1 :])
            with pytest.raises(BadArtifact, match=str(path)):
                read(path)


def test_an_empty_file_is_a_log_whose_creation_was_interrupted(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.touch()
    assert read(path) == []
    log = WriteAheadLog.reopen(path, 0)
    log.append(b"first")
    log.close()
    assert read(path) == [b"first"]


@contextmanager
def limit_file_size(size_bytes: int) -> Iterator[None]:
    """Like a full disk: the first part of a write succeeds, the rest fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_failed_write_leaves_nothing_and_the_next_succeeds(path: Path) -> None:
    size = path.stat().st_size
    log = WriteAheadLog.reopen(path, size)
    with limit_file_size(size + 100), pytest.raises(OSError, match="File too large"):
        log.append(b"x" * 200)
    assert path.stat().st_size == log.size == size
    log.append(b"x" * 200)
    log.close()
    assert read(path) == [*PAYLOADS, b"x" * 200]


def test_a_log_that_cannot_be_written_is_not_created(tmp_path: Path) -> None:
    with limit_file_size(3), pytest.raises(OSError, match="File too large"):
        WriteAheadLog.create(tmp_path / "log")
    assert list(tmp_path.iterdir()) == []
    WriteAheadLog.create(tmp_path / "log").close()


def test_after_a_write_that_could_not_be_undone_every_write_fails(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = path.stat().st_size
    log = WriteAheadLog.reopen(path, size)

    def refuse(*_: object) -> None:
        raise OSError("no")

    with monkeypatch.context() as patch, limit_file_size(size + 100):
        patch.setattr("os.ftruncate", refuse)
        with pytest.raises(OSError, match="File too large"):
            log.append(b"x" * 200)
    with pytest.raises(OSError, match="could not be undone: no; restart"):
        log.append(b"later")
    log.close()
    assert read(path) == PAYLOADS  # A restart cuts the rest off.
