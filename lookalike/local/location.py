"""What an index location serves, for those who start its shards. Reads two small files; shards check the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.errors import BadArtifact


@dataclass(frozen=True, kw_only=True)
class Version:
    name: str
    shards: int
    spaces: Sequence[str]  # "image", "text"


def current(location: Path) -> Version:
    """Raises BadArtifact where there is no index, or its manifest is damaged."""
    try:
        name = (location / "CURRENT").read_text(encoding="utf-8").strip()
        manifest = json.loads((location / name / "manifest.json").read_bytes())
        spaces = tuple(str(space["name"]) for space in manifest["spaces"])
        return Version(name=name, shards=int(manifest["shards"]), spaces=spaces)
    except OSError as error:
        raise BadArtifact(f"{error.filename}: no index here: {error.strerror}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise BadArtifact(f"{location}: the manifest of the current version is damaged: {error!r}") from error
