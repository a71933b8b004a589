"""Find exported models in TF-Serving's layout, MODELS_DIR/<name>/<version>/. Reads files, without TensorFlow."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from encoders.image.signature import MODEL
from lookalike.errors import BadArtifact

METADATA_FILE: Final = "fingerprint.json"  # Beside saved_model.pb; TF-Serving ignores unknown files.

MAX_VERSION: Final = (1 << 63) - 1  # Versions are int64 in TF-Serving and its messages.


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportedModel:
    """One exported version of a model."""

    path: Path
    version: int
    encoder: str  # its fingerprint


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelListing:
    """One version in the output of `lookalike encoders list`, which may be damaged."""

    path: Path
    version: int
    size_bytes: int
    encoder: str = ""  # its fingerprint; "" if the metadata cannot be read, see `error`
    error: str = ""
    precision: str = ""  # of its layers; "" if not in the metadata
    weights: str = ""  # name of the weights; "" if not in the metadata


def find_versions(models: Path, name: str = MODEL) -> dict[int, Path]:
    """All versions of a model, ascending. As in TF-Serving, only folders named by an integer <= MAX_VERSION count."""
    folder = models / name
    versions = {int(path.name): path for path in folder.iterdir() if _is_version(path)} if folder.is_dir() else {}
    return dict(sorted(versions.items()))


def find_model(models: Path, version: int | None = None, name: str = MODEL) -> ExportedModel:
    """Find the given version, or the highest. Raises BadArtifact if there is none or its metadata is damaged."""
    versions = find_versions(models, name)
    if not versions or (version is not None and version not in versions):
        missing = "model" if version is None else f"version {version}"
        raise BadArtifact(
            f"no {missing} in {models / name} (found: {', '.join(map(str, versions)) or 'none'}); "
            f"create one with 'lookalike encoders export {models}'"
        )
    number = max(versions) if version is None else version
    return ExportedModel(path=versions[number], version=number, encoder=read_fingerprint(versions[number]))


def list_versions(models: Path, name: str = MODEL) -> list[ModelListing]:
    """Describe all versions of a model, ascending, damaged ones included."""
    return [_describe(number, path) for number, path in find_versions(models, name).items()]


def read_fingerprint(path: Path) -> str:
    """The fingerprint in the metadata of a version. Raises BadArtifact."""
    encoder: str = _read_metadata(path)["encoder"]
    return encoder


def _describe(number: int, path: Path) -> ModelListing:
    size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        metadata = _read_metadata(path)
    except BadArtifact as error:
        return ModelListing(path=path, version=number, size_bytes=size_bytes, error=str(error))
    return ModelListing(
        path=path,
        version=number,
        size_bytes=size_bytes,
        encoder=metadata["encoder"],
        precision=str(metadata.get("precision", "")),
        weights=str(metadata.get("weights", "")),
    )


def _read_metadata(path: Path) -> dict[str, Any]:
    """Read the metadata that the export wrote beside the model. Raises BadArtifact unless it names the encoder."""
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
