"""What was built from what, so that a step is done again only when what goes into it differs. Reads and writes files.

A stamp is written after its step, and taken away before it: a step that was interrupted has none, and is done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


class Stamps:
    """Stamps of steps, one file each in a directory. Inputs and outcomes are anything that JSON can hold."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def outcome(self, step: str, inputs: Mapping[str, Any]) -> Any | None:
        """What the step gave, where it went in full with these inputs and all that it made is still there."""
        try:
            stamp = json.loads(self._file(step).read_bytes())
            if stamp["inputs"] == inputs and all(Path(made).exists() for made in stamp["made"]):
                return stamp["outcome"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # No stamp, or not one of ours: the step is done again, which is always right.
        return None

    def begin(self, step: str) -> None:
        self._file(step).unlink(missing_ok=True)

    def done(self, step: str, inputs: Mapping[str, Any], outcome: Any, *, made: Sequence[Path]) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        stamp = {"inputs": inputs, "outcome": outcome, "made": [str(path) for path in made]}
        part = self._file(step).with_suffix(".part")
        part.write_text(json.dumps(stamp, indent=1))
        part.replace(self._file(step))

    def _file(self, step: str) -> Path:
        return self._directory / f"{step}.json"


def state_of(path: Path) -> str:
    """Digest of the names, sizes and times of change of a file, or of all files of a directory.

    Contents are not read: a catalogue may have a million photos. What is touched without a change is built again.
    """
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        told = file.stat()
        digest.update(
            f"{file.relative_to(path)}\0{told.st_size}\0{told.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def sources(root: Path, *packages: str) -> str:
    """Digest of the code of packages: what an older program built is built again by a newer one."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
