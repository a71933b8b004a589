"""What a shard's live directory holds: its logs, at most one compacted segment, and LIVE, which says which count.

LIVE is replaced by rename: a crash leaves the state before or the state after. Does file I/O.
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

from index.storage.version import replace_file
from lookalike.errors import BadArtifact, OperatorError
from lookalike.runtime import directory_lock
from lookalike.runtime.directory_lock import DirectoryLock

LIVE = "LIVE"
FORMAT = 2  # Since segments say how often removals were passed on.
_LOG = re.compile(r"log-(\d{6,})")


@dataclass(frozen=True, kw_only=True)
class State:
    log: int = 1  # The first log that counts; all later ones do.
    segment: str = ""  # Everything before that log, compacted; empty: there is nothing before.
    sequence: int = 0  # Updates that the segment holds the outcome of.


def log_path(directory: Path, number: int) -> Path:
    return directory / f"log-{number:06d}"


def segment_path(directory: Path, number: int) -> Path:
    """For a segment of what came before the log of that number: of no earlier attempt, which LIVE may name already."""
    paths = (directory / f"segment-{number:06d}-{attempt}" for attempt in count(1))
    return next(path for path in paths if not path.exists())


def lock(directory: Path) -> DirectoryLock:
    """Make the directory, and lock it.

    Raises OperatorError where another does, and where nothing can be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        lock = directory_lock.try_acquire(directory)
    except OSError as error:
        raise OperatorError(f"{directory}: changes cannot be kept there: {error.strerror}") from error
    if lock is None:
        raise OperatorError(f"{directory}: another process writes here; give each shard a directory")
    return lock


def read(directory: Path) -> State:
    """Raises BadArtifact, naming the file."""
    path = directory / LIVE
    try:
        body = json.loads(path.read_bytes())
        if body["format"] != FORMAT or body.pop("checksum") != _checksum(body):
            raise ValueError("of another format, or changed")
        return State(log=int(body["log"]), segment=str(body["segment"]), sequence=int(body["sequence"]))
    except FileNotFoundError:
        return State()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{path}: damaged: {error!r}") from error


def write(directory: Path, state: State) -> None:
    """Raises OSError; then it is the state before or this one that a crash leaves."""
    body = {"format": FORMAT, **asdict(state)}
    replace_file(directory / LIVE, json.dumps({**body, "checksum": _checksum(body)}) + "\n")


def logs(directory: Path, state: State) -> list[int]:
    """The numbers of the logs that count, rising; none: all is yet to come. Raises BadArtifact where one is missing."""
    found = sorted(int(match[1]) for path in directory.iterdir() if (match := _LOG.fullmatch(path.name)))
    counting = [number for number in found if number >= state.log]
    if counting != [*range(state.log, state.log + len(counting))] or not (counting or state == State()):
        raise BadArtifact(f"{log_path(directory, state.log)}: a log is missing; there are {counting}")
    return counting


def tidy(directory: Path, state: State) -> None:
    """Remove what counts no longer, and what never came to count."""
    for path in directory.iterdir():
        match = _LOG.fullmatch(path.name)
        if match and int(match[1]) < state.log:
            path.unlink()
        elif path.name.startswith("segment-") and path.name != state.segment:
            shutil.rmtree(path)


def _checksum(body: Mapping[str, object]) -> int:
    return crc32(json.dumps(body, sort_keys=True).encode())
