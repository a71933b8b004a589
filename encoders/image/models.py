"""Find exported models in TF-Serving's layout, MODELS_DIR/<name>/<version>/. Reads files, without TensorFlow."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from encoders.image.card import read_exported_card
from encoders.image.signature import MODEL
from lookalike.errors import BadArtifact

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
    encoder: str = ""  # its fingerprint; "" if the card cannot be read, see `error`
    error: str = ""
    input_px: int = 0
    dimension: int = 0
    precision: str = ""  # of its layers
    weights: str = ""  # name of the weights; "" if not in the card


def find_versions(models: Path, name: str = MODEL) -> dict[int, Path]:
    """All versions of a model, ascending. As in TF-Serving, only folders named by an integer <= MAX_VERSION count."""
    folder = models / name
    versions = {int(path.name): path for path in folder.iterdir() if _is_version(path)} if folder.is_dir() else {}
    return dict(sorted(versions.items()))


def find_model(models: Path, version: int | None = None, name: str = MODEL) -> ExportedModel:
    """Find the given version, or the highest. Raises BadArtifact if there is none or its card is wrong."""
    versions = find_versions(models, name)
    if not versions or (version is not None and version not in versions):
        missing = "model" if version is None else f"version {version}"
        raise BadArtifact(
            f"no {missing} in {models / name} (found: {', '.join(map(str, versions)) or 'none'}); "
            f"create one with 'lookalike encoders export {models}'"
        )
    number = max(versions) if version is None else version
    card = read_exported_card(versions[number])
    return ExportedModel(path=versions[number], version=number, encoder=card.fingerprint)


def list_versions(models: Path, name: str = MODEL) -> list[ModelListing]:
    """Describe all versions of a model, ascending, damaged ones included."""
    return [_describe(number, path) for number, path in find_versions(models, name).items()]


def _describe(number: int, path: Path) -> ModelListing:
    size_bytes = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    try:
        card = read_exported_card(path)
    except BadArtifact as error:
        return ModelListing(path=path, version=number, size_bytes=size_bytes, error=str(error))
    return ModelListing(
        path=path,
        version=number,
        size_bytes=size_bytes,
        encoder=card.fingerprint,
        input_px=card.input_px,
        dimension=card.dimension,
        precision=card.precision,
        weights=card.weights,
    )


def _is_version(path: Path) -> bool:
    number = int(path.name) if path.name.isascii() and path.name.isdecimal() else MAX_VERSION + 1
    return number <= MAX_VERSION and (path / "saved_model.pb").is_file()
