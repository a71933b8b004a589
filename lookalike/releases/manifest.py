"""The manifest of a version: its contents, its measured recall, and the checksum of every file. Pure."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

from lookalike.errors import BadArtifact
from lookalike.releases.names import ENCODERS
from lookalike.spaces import space_number
from lookalike.strict_json import parse_json

FORMAT = 11  # Raised when keys or files change; 11: the encoders are among the files, and where the products came from.
EXACT = "Flat"


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """How hard to search for the `depth` nearest neighbours, and the recall measured at that effort."""

    depth: int
    search_parameter: int  # nprobe (IVF), efSearch (HNSW) or epsilon (NGT).
    refine_factor: int  # Candidates rescored with full vectors, per result.
    cost: float  # Time to find candidates, in comparisons with one full vector.
    recall: float  # recall@depth against exact search, of vectors that the index was neither trained on nor held.
    standard_error: float  # Of that recall.


@dataclass(frozen=True, kw_only=True)
class IndexEntry:
    """The index over the vectors of one space in one shard. Exact search has no operating points."""

    recipe: str = EXACT  # A factory string, see index/backends/recipe.py.
    operating_points: tuple[
        OperatingPoint, ...
    ] = ()  # By rising depth, as built from 10; beyond the last: exact search.

    @property
    def recall_at_10(self) -> float:
        return self.operating_points[0].recall if self.operating_points else 1.0


@dataclass(frozen=True, kw_only=True)
class RecipeFigures:
    """What a recipe took on a sample of a space's vectors, and would take for all of a shard's."""

    recipe: str
    bytes_per_vector: float  # In memory, by formula.
    recall: float  # Of the sample, at the operating point that is taken to reach the target in the shard.
    cpu_ms_sample: float  # Measured: of one core, for one query.
    cpu_ms: float  # Extrapolated to the shard.


@dataclass(frozen=True, kw_only=True)
class RecipeChoice:
    """How the recipe `auto` was decided for a space. A later build keeps it while it asks for the same."""

    recipe: str  # A factory string without the parameters that follow from the number of vectors.
    reason: str
    documents: int  # Vectors of the largest shard.
    sample: int  # Vectors measured.
    bytes_per_vector: float  # The budget.
    target_recall: float
    candidates: tuple[str, ...]  # That were within the budget and installed.
    figures: tuple[RecipeFigures, ...]


@dataclass(frozen=True, kw_only=True)
class DuplicatesThreshold:
    """The score from which products are near-duplicates in a space, as it was measured on some of them."""

    min_score: float
    precision: float  # Mean over the queries with an answer: the share of it that is the same product.
    recall: float  # Mean over the queries that have another of the same product: the share of these in the answer.
    queries: int
    measured_by: str  # What says which products are the same: "stated groups" or "made copies".


@dataclass(frozen=True, kw_only=True)
class PromisedRecall:
    """recall@10 of a space as its build measured it, for vectors that the index does not hold."""

    recall: float
    standard_error: float


@dataclass(frozen=True, kw_only=True)
class SpaceEntry:
    name: str
    dim: int
    encoder: str
    rescore: str  # Type of the stored full vectors that scores are computed from: float32 or float16.
    documents: tuple[int, ...]  # Vectors per shard.
    indexes: tuple[IndexEntry, ...]  # One per shard.
    choice: RecipeChoice | None = None  # None: the recipe was named, or the shards are searched exactly.
    duplicates: DuplicatesThreshold | None = None  # None: not measured.

    @property
    def recall_at_10(self) -> PromisedRecall | None:
        """Of the shards together, by their vectors; None: every shard is searched exactly.

        The ten nearest of all shards are among the nearest of their own, where recall is no lower: more is found.
        """
        total = sum(self.documents)
        if not total or not any(index.operating_points for index in self.indexes):
            return None
        shares = [documents / total for documents in self.documents]
        errors = [index.operating_points[0].standard_error if index.operating_points else 0.0 for index in self.indexes]
        return PromisedRecall(
            recall=sum(share * index.recall_at_10 for share, index in zip(shares, self.indexes, strict=True)),
            standard_error=math.hypot(*(share * error for share, error in zip(shares, errors, strict=True))),
        )


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Origin:
    """What an update made a version of."""

    catalogue: str  # As it was named: a directory, or the address of a gateway.
    digest: str  # BLAKE2b of the products that were read.
    rows: int  # Of the catalogue, rejected ones too.
    rejected: int
    image_model: str = ""  # Name and version of the model that encoded the photos: "mobilenet:3"; empty: no photos.
    software: str = ""  # "lookalike 0.1.0".


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """One release: shards, and the encoders whose vectors they hold, which processes serve as one or not at all."""

    version: str
    shards: int
    seed: int
    products: tuple[int, ...]  # Per shard, with or without vectors.
    spaces: tuple[SpaceEntry, ...]
    files: Mapping[str, FileEntry]  # By path below the version's directory, with "/".
    # The spaces that words alone are best searched in, and the share of each; empty: not measured.
    text_shares: Mapping[str, float] = field(default_factory=dict)
    origin: Origin | None = None  # None: not made by an update.

    @property
    def encoders(self) -> Mapping[str, str]:
        """The fingerprints of the encoders that are among the files, by space: "text" and "product", or none."""
        kept = {path.split("/")[1] for path in self.files if path.startswith(f"{ENCODERS}/")}
        return {space.name: space.encoder for space in self.spaces if space.name in kept}


def dump_manifest(manifest: Manifest) -> str:
    """The manifest as JSON, with a checksum of itself, so that a changed parameter is noticed like a changed file."""
    body = {"format": FORMAT, **asdict(manifest)}
    return json.dumps({**body, "checksum": _checksum(body)}, indent=1, sort_keys=True) + "\n"


def parse_manifest(text: str, where: str) -> Manifest:
    """The inverse of `dump_manifest`. Raises BadArtifact, whose message begins with `where`."""
    try:
        body = parse_json(text)
        if body["format"] != FORMAT:
            raise BadArtifact(
                f"{where}: has format {body['format']}, this program reads format {FORMAT}: build the index again"
            )
        if body.pop("checksum") != _checksum(body):
            raise BadArtifact(f"{where}: damaged: its checksum differs")
        return _manifest_from(body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{where}: not a manifest: {type(error).__name__}: {error}") from error


def _manifest_from(body: Mapping[str, Any]) -> Manifest:
    manifest = Manifest(
        version=str(body["version"]),
        shards=int(body["shards"]),
        seed=int(body["seed"]),
        products=tuple(body["products"]),
        spaces=tuple(_space_from(space) for space in body["spaces"]),
        files={path: FileEntry(**entry) for path, entry in body["files"].items()},
        text_shares={name: float(share) for name, share in body["text_shares"].items()},
        origin=None if body["origin"] is None else Origin(**body["origin"]),
    )
    if not manifest.text_shares.keys() <= {space.name for space in manifest.spaces}:
        raise ValueError("text_shares names a space that the version does not have")
    for path in manifest.files:
        parts = PurePosixPath(path).parts
        if not parts or parts[0] == "/" or ".." in parts or "\\" in path:
            raise ValueError(f"the path {path!r} leads out of the version")
    per_shard = [manifest.products, *(space.documents for space in manifest.spaces)]
    if any(len(counts) != manifest.shards for counts in [*per_shard, *(space.indexes for space in manifest.spaces)]):
        raise ValueError("counts per shard differ in length from the number of shards")
    return manifest


def _space_from(body: Mapping[str, Any]) -> SpaceEntry:
    space_number(body["name"])  # Raises ValueError for an unknown space.
    indexes = tuple(
        IndexEntry(
            **{**index, "operating_points": tuple(OperatingPoint(**point) for point in index["operating_points"])}
        )
        for index in body["indexes"]
    )
    choice = None if body["choice"] is None else _choice_from(body["choice"])
    duplicates = None if body["duplicates"] is None else DuplicatesThreshold(**body["duplicates"])
    return SpaceEntry(
        **{
            **body,
            "documents": tuple(body["documents"]),
            "indexes": indexes,
            "choice": choice,
            "duplicates": duplicates,
        }
    )


def _choice_from(body: Mapping[str, Any]) -> RecipeChoice:
    figures = tuple(RecipeFigures(**each) for each in body["figures"])
    return RecipeChoice(**{**body, "candidates": tuple(body["candidates"]), "figures": figures})


def _checksum(body: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
