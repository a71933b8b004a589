"""Encoders trained once on the same inputs: DIRECTORY/<fingerprint>, and a note of what was trained on what.

One training at a time in a directory: others wait for it. What a training that was killed left is removed by the next.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lookalike.errors import BadArtifact
from pipeline.update_lock import locked


def once(
    directory: Path, inputs: str, *, train: Callable[[Path], str], check: Callable[[Path], object]
) -> tuple[Path, bool]:
    """The artifact that was trained on the same inputs, else the one that is trained now, and whether it was.

    inputs: a digest of all that decides the outcome. train: writes the artifact to a new folder, returns its
    fingerprint; what it raises leaves nothing behind. check: raises BadArtifact for a folder that is not whole; one
    that is there and is not is written anew. Raises OperatorError where the directory cannot be written.
    """
    note = directory / f"trained-{inputs}.json"
    if (artifact := _trained_before(note, check)) is not None:
        return artifact, False
    with locked(directory, wait=True):
        if (artifact := _trained_before(note, check)) is not None:
            return artifact, False  # While this one waited.
        staged = directory / ".training"
        shutil.rmtree(staged, ignore_errors=True)
        artifact = directory / train(staged)
        if _is_whole(artifact, check):
            shutil.rmtree(staged)
        else:
            shutil.rmtree(artifact, ignore_errors=True)
            staged.replace(artifact)
        part = note.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": artifact.name}), encoding="utf-8")
        part.replace(note)
        return artifact, True


def _trained_before(note: Path, check: Callable[[Path], object]) -> Path | None:
    try:
        artifact: Path = note.parent / json.loads(note.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artifact if _is_whole(artifact, check) else None


def _is_whole(artifact: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(artifact)
    except BadArtifact:
        return False
    return True
