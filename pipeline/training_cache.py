"""Caches trained encoders by a digest of their training inputs. Reads and writes files.

DIRECTORY/<fingerprint>/ is an encoder; DIRECTORY/trained-<inputs>.json names the encoder trained on those inputs. One
training at a time runs in a directory, others wait. Files that a killed training left are removed by the next.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from lookalike.errors import BadArtifact
from lookalike.strict_json import parse_json
from pipeline.update_lock import lock_directory


def train_once(
    directory: Path, inputs: str, *, train: Callable[[Path], str], check: Callable[[Path], object]
) -> tuple[Path, bool]:
    """Return the artifact trained on these inputs, training it if it is not cached, and whether it was trained now.

    inputs: digest of everything that determines the result. train: writes the artifact to a new directory and returns
    its fingerprint; if it raises, nothing is cached. check: raises BadArtifact for an incomplete or damaged artifact,
    which is then trained again. Raises OperatorError if the directory cannot be written.
    """
    entry = directory / f"trained-{inputs}.json"
    if (artifact := find_trained(directory, inputs, check)) is not None:
        return artifact, False
    with lock_directory(directory, wait=True):
        if (artifact := _cached(entry, check)) is not None:
            return artifact, False  # Trained by another process while this one waited.
        staged = directory / ".training"
        shutil.rmtree(staged, ignore_errors=True)
        artifact = directory / train(staged)
        if _is_valid(artifact, check):
            shutil.rmtree(staged)
        else:
            shutil.rmtree(artifact, ignore_errors=True)
            staged.replace(artifact)
        part = entry.with_suffix(".part")
        part.write_text(json.dumps({"fingerprint": artifact.name}), encoding="utf-8")
        part.replace(entry)
        return artifact, True


def find_trained(directory: Path, inputs: str, check: Callable[[Path], object]) -> Path | None:
    """The artifact trained on these inputs, if it is cached and valid."""
    return _cached(directory / f"trained-{inputs}.json", check)


def _cached(entry: Path, check: Callable[[Path], object]) -> Path | None:
    """The valid artifact that a cache entry (trained-<inputs>.json) names; None if there is none."""
    try:
        artifact: Path = entry.parent / parse_json(entry.read_text(encoding="utf-8"))["fingerprint"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return artifact if _is_valid(artifact, check) else None


def _is_valid(artifact: Path, check: Callable[[Path], object]) -> bool:
    try:
        check(artifact)
    except BadArtifact:
        return False
    return True
