"""The files of a shard's live directory: write-ahead logs, at most one compacted segment, and LIVE, the checkpoint.

LIVE names the segment and the first log to replay after it. It is replaced by rename: a crash leaves the checkpoint
before or the one after. Does file I/O.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from zlib import crc32

from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases.version import replace_file
from lookalike.runtime import directory_lock
from lookalike.runtime.directory_lock import DirectoryLock
from lookalike.strict_json import parse_json

LIVE = "LIVE"
FORMAT = 4  # Since patches of the base are in patches.arrow.
_LOG = re.compile(r"log-(\d{6,})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """Where recovery begins."""

    log: int = 1  # The first log to replay; all later ones follow.
    segment: str = ""  # The compacted segment of everything before that log; empty: there is nothing before.
    sequence: int = 0  # Updates that are in the segment.


def log_path(directory: Path, number: int) -> Path:
    return directory / f"log-{number:06d}"


def segment_path(directory: Path, number: int) -> Path:
    """An unused path for the segment of all changes before a log: LIVE may name the segment of a failed attempt."""
    paths = (directory / f"segment-{number:06d}-{attempt}" for attempt in count(1))
    return next(path for path in paths if not path.exists())


def lock(directory: Path) -> DirectoryLock:
    """Create the directory and lock it.

    Raises OperatorError if another process holds the lock, or nothing can be written there.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory_lock.try_acquire(directory)
    except OSError as error:
        raise OperatorError(f"{directory}: cannot keep changes there: {error.strerror}") from error
    if lock is None:
        raise OperatorError(f"{directory}: another process writes here; give each shard a directory")
    return lock


def read_checkpoint(directory: Path) -> Checkpoint:
    """The checkpoint of LIVE; the initial one if there is no file. Raises BadArtifact, naming the file."""
    path = directory / LIVE
    try:
        body = parse_json(path.read_bytes())
        if body["format"] != FORMAT or body.pop("checksum") != _checksum(body):
            raise ValueError("its format or its checksum differs")
        return Checkpoint(log=int(body["log"]), segment=str(body["segment"]), sequence=int(body["sequence"]))
    except FileNotFoundError:
        return Checkpoint()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path}: damaged: {error!r}") from error


def write_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Replace LIVE. Raises OSError; then LIVE holds the checkpoint before or this one."""
    body = {"format": FORMAT, **asdict(checkpoint)}
    replace_file(directory / LIVE, json.dumps({**body, "checksum": _checksum(body)}) + "\n")


def logs_to_replay(directory: Path, checkpoint: Checkpoint) -> list[int]:
    """The numbers of the logs to replay, rising; none: nothing was logged yet. Raises BadArtifact if one is missing."""
    numbers = sorted(int(match[1]) for path in directory.iterdir() if (match := _LOG.fullmatch(path.name)))
    replayed = [number for number in numbers if number >= checkpoint.log]
    if replayed != [*range(checkpoint.log, checkpoint.log + len(replayed))] or not (
        replayed or checkpoint == Checkpoint()
    ):
        raise BadArtifact(f"{log_path(directory, checkpoint.log)}: a log is missing; the directory has {replayed}")
    return replayed


def remove_obsolete(directory: Path, checkpoint: Checkpoint) -> None:
    """Remove logs and segments that the checkpoint does not need, those of failed attempts included."""
    for path in directory.iterdir():
        match = _LOG.fullmatch(path.name)
        if match and int(match[1]) < checkpoint.log:
            path.unlink()
        elif path.name.startswith("segment-") and path.name != checkpoint.segment:
            shutil.rmtree(path)


def _checksum(body: Mapping[str, object]) -> int:
    return crc32(json.dumps(body, sort_keys=True).encode())
