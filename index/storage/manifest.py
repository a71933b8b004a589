"""The manifest of a version: what it holds, how well it finds, and the checksum of every file. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from lookalike.errors import BadArtifact
from lookalike.spaces import space_number

FORMAT = 5  # Since products have revisions.
EXACT = "Flat"


@dataclass(frozen=True, kw_only=True)
class Rung:
    """How hard to look for neighbours that lie `depth` deep in the ranking of all vectors, and what was measured so."""

    depth: int
    search_parameter: int  # In the kind's own measure: lists visited, nodes kept, how far a graph is explored.
    factor: int  # Candidates rescored with full vectors, per result wanted.
    cost: float  # Of finding candidates: about as much time as comparing with so many full vectors.
    recall: float  # Of `depth` results, against exact search, queries being products of the shard.


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """The index over the vectors of one space in one shard. Exact search needs no codes and no ladder."""

    recipe: str = EXACT  # As index/kinds/recipe.py reads it.
    ladder: tuple[Rung, ...] = ()  # By rising depth, the first of depth 10; deeper than the last: exact search.

    @property
    def recall_at_10(self) -> float:
        return self.ladder[0].recall if self.ladder else 1.0


@dataclass(frozen=True, kw_only=True)
class SpaceEntry:
    name: str
    dim: int
    encoder: str
    rescore: str  # What the full vectors are kept as, and scores are of: float32 or float16.
    documents: tuple[int, ...]  # Vectors per shard.
    indexes: tuple[IndexEntry, ...]  # One per shard.


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    version: str
    shards: int
    seed: int
    products: tuple[int, ...]  # Per shard, with or without vectors.
    spaces: tuple[SpaceEntry, ...]
    files: Mapping[str, FileEntry]  # By path below the version's directory, with "/".


def dumped(manifest: Manifest) -> str:
    """JSON with a checksum of itself: a changed parameter is noticed like a changed file."""
    body = {"format": FORMAT, **asdict(manifest)}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, sort_keys=True) + "\n"


def parsed(text: str, where: str) -> Manifest:
    """Raises BadArtifact, beginning with `where`."""
    try:
        body = json.loads(text)
        if body["format"] != FORMAT:
            raise BadArtifact(
                f"{where}: has format {body['format']}, this program reads format {FORMAT}: build it again"
            )
        if body.pop("checksum") != _checksum(body):
            raise BadArtifact(f"{where}: damaged: its checksum differs")
        return _manifest(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{where}: not a manifest: {type(error).__name__}: {error}") from error


def _manifest(body: Mapping[str, Any]) -> Manifest:
    manifest = Manifest(
        version=str(body["version"]),
        shards=int(body["shards"]),
        seed=int(body["seed"]),
        products=tuple(body["products"]),
        spaces=tuple(_space(space) for space in body["spaces"]),
        files={path: FileEntry(**entry) for path, entry in body["files"].items()},
    )
    for path in manifest.files:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in path:
            raise ValueError(f"the path {path!r} leads out of the version")
    per_shard = [manifest.products, *(space.documents for space in manifest.spaces)]
    if any(len(counts) != manifest.shards for counts in [*per_shard, *(space.indexes for space in manifest.spaces)]):
        raise ValueError("a count of shards differs")
    return manifest


def _space(body: Mapping[str, Any]) -> SpaceEntry:
    space_number(body["name"])  # Raises ValueError for a space that this program does not know.
    indexes = tuple(
        IndexEntry(**{**index, "ladder": tuple(Rung(**rung) for rung in index["ladder"])}) for index in body["indexes"]
    )
    return SpaceEntry(**{**body, "documents": tuple(body["documents"]), "indexes": indexes})


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
