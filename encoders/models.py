"""Folders of exported models, as TF-Serving reads them: MODELS_DIR/<name>/<version>/. Reads files, no TensorFlow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from encoders.signature import MODEL
from lookalike.errors import BadArtifact

CARD: Final = "fingerprint.json"  # Beside saved_model.pb; TF-Serving reads only the names it knows.


@dataclass(frozen=True, slots=True, kw_only=True)
class Exported:
    path: Path
    version: int
    encoder: str  # its fingerprint


def versions(models: Path, name: str = MODEL) -> dict[int, Path]:
    """Every version there is, ascending; as in TF-Serving, other names than whole numbers do not count."""
    folder = models / name
    found = {int(path.name): path for path in folder.iterdir() if _is_version(path)} if folder.is_dir() else {}
    return dict(sorted(found.items()))


def exported(models: Path, version: int | None = None, name: str = MODEL) -> Exported:
    """The version asked for, else the highest. Raises BadArtifact when there is none, or it is damaged."""
    found = versions(models, name)
    if not found or (version is not None and version not in found):
        wanted = "model" if version is None else f"version {version}"
        raise BadArtifact(
            f"no {wanted} in {models / name} (there: {', '.join(map(str, found)) or 'nothing'}); "
            f"'lookalike encoders export {models}' writes one"
        )
    number = max(found) if version is None else version
    return Exported(path=found[number], version=number, encoder=fingerprint(found[number]))


def fingerprint(path: Path) -> str:
    """The fingerprint on the card of a version. Raises BadArtifact."""
    try:
        encoder = json.loads((path / CARD).read_text(encoding="utf-8"))["encoder"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path / CARD} does not name the encoder: {error}") from error
    if not isinstance(encoder, str) or not encoder:
        raise BadArtifact(f"{path / CARD} does not name the encoder")
    return encoder


def _is_version(path: Path) -> bool:
    return path.name.isascii() and path.name.isdecimal() and (path / "saved_model.pb").is_file()
