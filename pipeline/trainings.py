"""Encoders trained once on the same inputs: DIRECTORY/<fingerprint>, and a note of what was trained on what."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from encoders.artifact import MANIFEST


def once(directory: Path, inputs: str, train: Callable[[Path], str]) -> tuple[Path, bool]:
    """The artifact that was trained on the same inputs, else the one that is trained now, and whether it was.

    inputs: a digest of all that decides the outcome. train: writes the artifact to a new folder, returns its
    fingerprint; what it raises leaves nothing behind.
    """
    note = directory / f"trained-{inputs}.json"
    if (artifact := _trained_before(note)) is not None:
        return artifact, False
    directory.mkdir(parents=True, exist_ok=True)
    staged = directory / ".training"
    shutil.rmtree(staged, ignore_errors=True)
    fingerprint = train(staged)
    artifact = directory / fingerprint
    if artifact.exists():
        shutil.rmtree(staged)
    else:
        staged.replace(artifact)
    part = note.with_suffix(".part")
    part.write_text(json.dumps({"fingerprint": fingerprint}), encoding="utf-8")
    part.replace(note)
    return artifact, True


def _trained_before(note: Path) -> Path | None:
    try:
        artifact: Path = note.parent / json.loads(note.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artifact if (artifact / MANIFEST).is_file() else None
