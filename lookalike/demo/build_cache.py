"""The demo's build cache: which inputs each build step ran with and what it produced. Reads and writes files.

A step's entry is deleted before the step runs and written after it: an interrupted step has no entry and runs again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lookalike.strict_json import parse_json


class BuildCache:
    """Entries of build steps, one JSON file each in a directory. Inputs and results are anything JSON can hold."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def result(self, step: str, inputs: Mapping[str, Any]) -> Any | None:
        """The result of the step if it last ran with these inputs and its output files still exist, else None."""
        try:
            entry = parse_json(self._file(step).read_bytes())
            if entry["inputs"] == inputs and all(Path(output).exists() for output in entry["outputs"]):
                return entry["result"]
        except (OSError, ValueError, KeyError, TypeError):
            pass  # No entry, or a damaged one: the step runs again, which is always right.
        return None

    def invalidate(self, step: str) -> None:
        """Delete the entry of a step that is about to run."""
        self._file(step).unlink(missing_ok=True)

    def store(self, step: str, inputs: Mapping[str, Any], result: Any, *, outputs: Sequence[Path]) -> None:
        """Record a step that has finished; `outputs` are the files and directories that it wrote."""
        self._directory.mkdir(parents=True, exist_ok=True)
        entry = {"inputs": inputs, "result": result, "outputs": [str(path) for path in outputs]}
        part = self._file(step).with_suffix(".part")
        part.write_text(json.dumps(entry, indent=1))
        part.replace(self._file(step))

    def _file(self, step: str) -> Path:
        return self._directory / f"{step}.json"


def metadata_digest(path: Path) -> str:
    """Digest of the names, sizes and modification times of a file, or of all files of a directory.

    Contents are not read: a catalogue may have a million photos. A touched but unchanged file counts as changed.
    """
    files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
    digest = hashlib.sha256()
    for file in files:
        stat = file.stat()
        digest.update(
            f"{file.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode(errors="surrogateescape")
        )
    return digest.hexdigest()


def source_digest(root: Path, *packages: str) -> str:
    """Digest of the source of packages below `root`, Python and word lists: what older code built is built again."""
    digest = hashlib.sha256()
    for package in packages:
        for file in sorted(each for each in (root / package).rglob("*") if each.suffix in (".py", ".txt")):
            digest.update(f"{file.relative_to(root)}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
