"""Folders of exported models, as TF-Serving reads them: MODELS_DIR/<name>/<version>/. Reads files, no TensorFlow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoders.image.signature import MODEL
from lookalike.errors import BadArtifact

METADATA_FILE: Final = "fingerprint.json"  # Beside saved_model.pb; TF-Serving reads only the names it knows.

MAX_VERSION: Final = (1 << 63) - 1  # The messages and TF-Serving count versions in 64 bits with a sign.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    path: Path
    version: int
    encoder: str  # its fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListing:
    path: Path
    version: int
    size_bytes: int
    encoder: str = ""  # its fingerprint; "" where the card is damaged, of which `damage` tells
    damage: str = ""
    precision: str = ""  # of its layers, and below the name of the weights; "" where the card does not say
    weights: str = ""


def find_versions(models: Path, name: str = MODEL) -> dict[int, Path]:
    """Every version there is, ascending; as in TF-Serving, only whole numbers up to MAX_VERSION count."""
    folder = models / name
    found = {int(path.name): path for path in folder.iterdir() if _is_version(path)} if folder.is_dir() else {}
    return dict(sorted(found.items()))


def find_model(models: Path, version: int | None = None, name: str = MODEL) -> ExportedModel:
    """The version asked for, else the highest. Raises BadArtifact when there is none, or it is damaged."""
    found = find_versions(models, name)
    if not found or (version is not None and version not in found):
        wanted = "model" if version is None else f"version {version}"
        raise BadArtifact(
            f"no {wanted} in {models / name} (there: {', '.join(map(str, found)) or 'nothing'}); "
            f"'lookalike encoders export {models}' writes one"
        )
    number = max(found) if version is None else version
    return ExportedModel(path=found[number], version=number, encoder=read_fingerprint(found[number]))


def list_versions(models: Path, name: str = MODEL) -> list[ModelListing]:
    """Every version there is, ascending, the damaged ones too."""
    return [_describe(number, path) for number, path in find_versions(models, name).items()]


def read_fingerprint(path: Path) -> str:
    """The fingerprint on the card of a version. Raises BadArtifact."""
    encoder: str = _read_metadata(path)["encoder"]
    return encoder


def _describe(number: int, path: Path) -> ModelListing:
    size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        metadata = _read_metadata(path)
    except BadArtifact as damage:
        return ModelListing(path=path, version=number, size_bytes=size_bytes, damage=str(damage))
    return ModelListing(
        path=path,
        version=number,
        size_bytes=size_bytes,
        encoder=metadata["encoder"],
        precision=str(metadata.get("precision", "")),
        weights=str(metadata.get("weights", "")),
    )


def _read_metadata(path: Path) -> dict[str, Any]:
    """What the export wrote beside the model; "encoder" is there, and names one. Raises BadArtifact."""
    try:
        metadata: dict[str, Any] = json.loads((path / METADATA_FILE).read_text(encoding="utf-8"))
        encoder = metadata["encoder"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{path / METADATA_FILE} does not name the encoder: {error}") from error
    if not isinstance(encoder, str) or not encoder:
        raise BadArtifact(f"{path / METADATA_FILE} does not name the encoder")
    return metadata


def _is_version(path: Path) -> bool:
    number = int(path.name) if path.name.isascii() and path.name.isdecimal() else MAX_VERSION + 1
    return number <= MAX_VERSION and (path / "saved_model.pb").is_file()
