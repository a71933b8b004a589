"""Read which version an index location serves. Reads two small files; the node that serves it checks the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import BadArtifact
from lookalike.strict_json import parse_json


@dataclass(frozen=True, kw_only=True)
class ServedIndex:
    """The current version of an index: its name, its number of shards and its vector spaces."""

    version: str
    shards: int
    spaces: Sequence[str]  # "image", "text"


def read_current(location: Path) -> ServedIndex:
    """Read the current version of an index location. Raises BadArtifact if there is none or its manifest is damaged."""
    try:
        version = (location / "CURRENT").read_text(encoding="utf-8").strip()
        manifest = parse_json((location / version / "manifest.json").read_bytes())
        spaces = tuple(str(space["name"]) for space in manifest["spaces"])
        return ServedIndex(version=version, shards=int(manifest["shards"]), spaces=spaces)
    except OSError as error:
        raise BadArtifact(f"{error.filename}: no index here: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{location}: the manifest of the current version is damaged: {error!r}") from error
