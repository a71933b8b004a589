"""Build a version of an index in a location, and let it serve. Reads arrays, writes files.

A version is built in LOCATION/.building, renamed when complete, and named by CURRENT last: an interrupted build never
serves. Its name is a digest of its inputs, so the same inputs give the same name and results; with the recipe `auto`
the recipe that was measured to be the best is one of them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import asdict, astuple, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.backends import faiss_support, recipe
from index.building import auto_recipe, shard_index
from index.building.calibration import EXACT_FLOATS, TARGET_RECALL
from index.building.shard_index import IndexTask
from index.building.tune_selection import TuneBudget
from index.storage import attributes, vectors
from index.storage.names import ATTRIBUTES, ROWS, VECTORS
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.releases import version
from lookalike.releases.manifest import (
    FORMAT,
    DuplicatesThreshold,
    FileEntry,
    IndexEntry,
    Manifest,
    Origin,
    RecipeChoice,
    SpaceEntry,
)
from lookalike.releases.names import ENCODERS, shard_name
from lookalike.runtime.engine import Engine, TaskNeeds
from lookalike.runtime.local_engine import LocalEngine
from lookalike.runtime.partition import shard_of
from lookalike.spaces import space_name
from lookalike.vectors import F32, I64, normalised

Progress = Callable[[str, int, int], None]  # The current step, steps done, steps in all.
MAX_SHARDS = 4096
_BUILDING, _ATTEMPTS = ".building", "attempts"
_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class SpaceVectors:
    """vectors (m, dim) float32 of any length but zero, possibly memory-mapped; rows (m,): the product of each."""

    encoder: str
    vectors: F32
    rows: I64


@dataclass(frozen=True, kw_only=True)
class IndexOptions:
    """How the index of every space and shard is built. Raises BadSettings for what suits no vectors."""

    recipe: str = recipe.AUTO  # A factory string, see index/backends/recipe.py.
    rescore: str = "float32"  # float16 takes half the disk; scores are then computed from rounded vectors.
    recall: float = TARGET_RECALL  # Target recall@k for every k; exact search where it is out of reach.
    bytes_per_vector: float | None = None  # Memory that `auto` may choose a recipe of; None: what HNSW32,SQ8 takes.

    def __post_init__(self) -> None:
        if self.recipe != recipe.AUTO:
            recipe.parse_recipe(self.recipe)
        if self.rescore not in vectors.RESCORE_DTYPES:
            raise BadSettings(f"rescore {self.rescore!r}: allowed are {', '.join(vectors.RESCORE_DTYPES)}")
        if not 0 < self.recall <= 1:
            raise BadSettings(f"recall {self.recall}: must be above 0 and at most 1")
        if self.bytes_per_vector is not None:
            if self.recipe != recipe.AUTO:
                raise BadSettings(
                    f"bytes per vector: only the recipe auto has a budget, {self.recipe} takes what it does"
                )
            if not 0 < self.bytes_per_vector < float("inf"):
                raise BadSettings(f"bytes per vector {self.bytes_per_vector}: must be a number above 0")


DEFAULT_OPTIONS = IndexOptions()


def build(
    location: Path,
    products: pa.Table,
    spaces: Mapping[int, SpaceVectors],
    *,
    shards: int,
    options: IndexOptions = DEFAULT_OPTIONS,
    seed: int = 0,
    threads: int = 1,
    engine: Engine | None = None,
    exact_floats: int = EXACT_FLOATS,
    text_shares: Mapping[int, float] | None = None,
    duplicates: Mapping[int, DuplicatesThreshold] | None = None,
    encoders: Mapping[int, Path] | None = None,
    origin: Origin | None = None,
    serve: bool = True,
    progress: Progress | None = None,
) -> str:
    """Build a version and, with `serve`, let it serve; returns its name. Vectors are scaled to unit norm.

    threads: of this machine. engine: what builds the indexes of shards; None: so many threads of this machine.
    exact_floats: with the recipe `auto` a shard's space of at most this many floats is searched exactly. For a larger
    one the recipe is measured, or kept from the version that serves.
    text_shares: the spaces that words alone are best searched in, and the share of each; None: not measured.
    duplicates: the score from which products are near-duplicates, of the spaces in which it was measured.
    encoders: the artifacts of the encoders of spaces, which are copied into the version.
    Raises BadCatalogue or BadArtifact with the row at fault; BadSettings for options that do not suit the vectors;
    OperatorError while another build is under way here.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise OperatorError(f"{shards} shards: not in 1..{MAX_SHARDS}")
    table = attributes.validate_products(products)
    for space, space_vectors in spaces.items():
        _check_vectors(space_name(space), space_vectors, table.num_rows)
    step = _step_counter(progress, shards * (1 + 2 * len(spaces)) + 1)
    with _build_directory(location) as directory:
        assignment = _ShardAssignment.of(table["id"], shards)
        for space_vectors in spaces.values():  # First: writing many vectors takes long.
            counts, dim = assignment.counts(space_vectors.rows), space_vectors.vectors.shape[1]
            for documents in counts:
                recipe.resolve_recipe(options.recipe, documents, dim, exact_floats)
            if (budget := _auto_budget(options, max(counts), dim, exact_floats)) is not None:
                auto_recipe.fitting_candidates(budget, dim)
        for shard in range(shards):
            step(f"writing the products of shard {shard}")
            (directory / shard_name(shard)).mkdir()
            attributes.write_products(directory / shard_name(shard) / ATTRIBUTES, table.take(assignment.rows(shard)))
            for space, space_vectors in sorted(spaces.items()):
                step(f"writing the {space_name(space)} vectors of shard {shard}")
                _write_vectors(
                    directory / shard_name(shard) / space_name(space), space_vectors, assignment, shard, options
                )
        settings = _Build(
            directory=directory, step=step, options=options, seed=seed, threads=threads, exact_floats=exact_floats
        )
        choices = {
            space: _choose_recipe(settings, location, space, assignment.counts(space_vectors.rows))
            for space, space_vectors in sorted(spaces.items())
        }
        for space, artifact in (encoders or {}).items():
            shutil.copytree(artifact, directory / ENCODERS / space_name(space))
        shares = {space_name(space): share for space, share in sorted((text_shares or {}).items())}
        thresholds = {space: (duplicates or {}).get(space) for space in spaces}
        name = _version_name(settings, spaces, choices, shards=shards, text_shares=shares, thresholds=thresholds)
        if not _is_intact(location, name):
            indexes = _build_indexes(settings, engine or LocalEngine(threads=threads), choices, shards)
            step("computing checksums")
            files = _file_entries(directory)
            manifest = _manifest(
                name,
                spaces,
                choices,
                indexes,
                assignment,
                thresholds=thresholds,
                rescore=options.rescore,
                seed=seed,
                files=files,
            )
            _publish(location, directory, replace(manifest, text_shares=shares, origin=origin))
        if serve:
            version.make_current(location, name)
    step("done")
    return name


@dataclass(frozen=True, kw_only=True)
class _Build:
    """What all indexes of a build have in common."""

    directory: Path
    step: _Step
    options: IndexOptions
    seed: int
    threads: int
    exact_floats: int


class _Step(Protocol):
    def __call__(self, what: str, *, count: int = 1) -> None:
        """Report the current step, which counts as so many."""


def _step_counter(progress: Progress | None, total: int) -> _Step:
    done = 0

    def step(what: str, *, count: int = 1) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, total)
        done += count

    return step


@contextmanager
def _build_directory(location: Path) -> Iterator[Path]:
    """An empty directory in the location, removed afterwards; the location is locked, for one build at a time."""
    try:
        location.mkdir(parents=True, exist_ok=True)
        with version.lock_location(location):
            directory = location / _BUILDING
            shutil.rmtree(directory, ignore_errors=True)
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
    except OSError as error:
        raise OperatorError(f"{location}: {error}") from error


@dataclass(frozen=True, kw_only=True)
class _ShardAssignment:
    """The shard of each product, and its row in the shard's table."""

    shards: int
    order: I64  # Rows of the catalogue by rising id.
    owners: npt.NDArray[np.int32]  # (n,): the shard of each catalogue row.
    shard_rows: I64  # (n,): the row of each in its shard.

    @classmethod
    def of(cls, ids: pa.ChunkedArray, shards: int) -> _ShardAssignment:
        order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        owners = np.fromiter((shard_of(product_id, shards) for product_id in ids.to_pylist()), np.int32, len(ids))
        shard_rows = np.empty(len(ids), dtype=np.int64)
        for shard in range(shards):
            rows = order[owners[order] == shard]
            shard_rows[rows] = np.arange(len(rows))
        return cls(shards=shards, order=order, owners=owners, shard_rows=shard_rows)

    def rows(self, shard: int) -> I64:
        """The catalogue rows of a shard, by rising id."""
        rows: I64 = self.order[self.owners[self.order] == shard]
        return rows

    def counts(self, rows: I64 | slice = slice(None)) -> tuple[int, ...]:
        return tuple(np.bincount(self.owners[rows], minlength=self.shards).tolist())


def _check_vectors(name: str, space_vectors: SpaceVectors, products: int) -> None:
    vectors, rows = space_vectors.vectors, space_vectors.rows
    if vectors.ndim != 2 or vectors.dtype != np.float32 or not vectors.shape[1]:
        raise BadArtifact(f"{name}: vectors are {vectors.dtype} {vectors.shape}, not float32 (n, dim)")
    if rows.shape != (len(vectors),):
        raise BadArtifact(f"{name}: {len(vectors)} vectors, but {rows.shape} rows")
    if len(rows) and not (rows.min() >= 0 and rows.max() < products):
        raise BadArtifact(f"{name}: a row is not in 0..{products - 1}")
    if len(np.unique(rows)) != len(rows):
        raise BadArtifact(f"{name}: a product has two vectors")


def _write_vectors(
    directory: Path, space_vectors: SpaceVectors, assignment: _ShardAssignment, shard: int, options: IndexOptions
) -> None:
    directory.mkdir()
    catalogue_rows = np.flatnonzero(assignment.owners[space_vectors.rows] == shard)
    catalogue_rows = catalogue_rows[np.argsort(assignment.shard_rows[space_vectors.rows[catalogue_rows]])]
    np.save(directory / ROWS, assignment.shard_rows[space_vectors.rows[catalogue_rows]])
    dim = space_vectors.vectors.shape[1]
    step = max(1, _CHUNK_BYTES // (4 * dim))
    row_chunks = (catalogue_rows[start : start + step] for start in range(0, len(catalogue_rows), step))
    chunks = (_unit_vectors(directory.name, space_vectors.vectors[rows], rows) for rows in row_chunks)
    vectors.write_vectors(directory / VECTORS, chunks, documents=len(catalogue_rows), dim=dim, rescore=options.rescore)


def _unit_vectors(name: str, vectors: F32, rows: I64) -> F32:
    if not (finite := np.isfinite(vectors).all(axis=1)).all():
        raise BadArtifact(f"{name}: vector {rows[finite.argmin()]} is not finite")
    if not (nonzero := vectors.any(axis=1)).all():
        raise BadArtifact(f"{name}: vector {rows[nonzero.argmin()]} is zero: it is similar to nothing")
    return normalised(vectors)


def _choose_recipe(settings: _Build, location: Path, space: int, documents: tuple[int, ...]) -> RecipeChoice | None:
    """What `auto` stands for in a space, by its largest shard; None: a recipe was named, or no shard needs one."""
    mapped, name = _open_vectors(settings, int(np.argmax(documents)), space), space_name(space)
    count, dim = mapped.shape
    budget = _auto_budget(settings.options, count, dim, settings.exact_floats)
    if budget is None:
        return None
    return auto_recipe.choose_recipe(
        mapped,
        budget,
        previous=_previous_choice(location, name, dim),
        seed=settings.seed,
        threads=settings.threads,
        progress=lambda what: settings.step(f"choosing the recipe of the {name} space: {what}", count=0),
    )


def _auto_budget(options: IndexOptions, documents: int, dim: int, exact_floats: int) -> TuneBudget | None:
    """What decides a space's recipe; None: it was named, or its largest shard, of so many, needs no measurement."""
    if options.recipe != recipe.AUTO or documents * dim <= exact_floats or documents < auto_recipe.MIN_DOCUMENTS:
        return None
    return TuneBudget(
        documents=documents,
        k=auto_recipe.K,
        recall=options.recall,
        bytes_per_vector=options.bytes_per_vector or auto_recipe.default_bytes_per_vector(dim),
    )


def _previous_choice(location: Path, name: str, dim: int) -> RecipeChoice | None:
    """That of the version which serves, if there is one that this program can read."""
    try:
        manifest = version.read_manifest(location, version.read_current(location))
    except BadArtifact:
        return None
    return next((space.choice for space in manifest.spaces if (space.name, space.dim) == (name, dim)), None)


def _open_vectors(settings: _Build, shard: int, space: int) -> vectors.StoredVectors:
    path = settings.directory / shard_name(shard) / space_name(space) / VECTORS
    return vectors.open_vectors(path, rescore=settings.options.rescore)


def _build_indexes(
    settings: _Build, engine: Engine, choices: Mapping[int, RecipeChoice | None], shards: int
) -> dict[int, tuple[IndexEntry, ...]]:
    """Build the indexes of all shards, by space; a space that is to be searched exactly has none."""
    directory = settings.directory.absolute()  # Tasks may run elsewhere.
    attempts = directory / _ATTEMPTS
    attempts.mkdir()
    plans = {
        (shard, space): _plan_index(settings, attempts, shard, space, choice)
        for shard in range(shards)
        for space, choice in choices.items()
    }
    tasks = [task for task in plans.values() if task is not None]
    threads = engine.threads_per_task(len(tasks))
    needs = TaskNeeds(
        threads=threads,
        memory_bytes=max((task.memory_bytes for task in tasks), default=0),
        files=(directory / shard_name(0) / ATTRIBUTES,),
    )
    entries = {}
    with closing(
        engine.map(shard_index.build_index, [replace(task, threads=threads) for task in tasks], needs)
    ) as built:
        for (shard, space), task in plans.items():
            settings.step(f"indexing the {space_name(space)} vectors of shard {shard}")
            entries[shard, space] = IndexEntry() if task is None else shard_index.place(next(built), task)
    shutil.rmtree(attempts)
    return {space: tuple(entries[shard, space] for shard in range(shards)) for space in choices}


def _plan_index(
    settings: _Build, attempts: Path, shard: int, space: int, choice: RecipeChoice | None
) -> IndexTask | None:
    """How the index of a space in a shard is built; None: it is to be searched exactly."""
    options, (documents, dim) = settings.options, _open_vectors(settings, shard, space).shape
    measured = recipe.DEFAULT if choice is None else choice.recipe
    resolved = recipe.resolve_recipe(options.recipe, documents, dim, settings.exact_floats, measured=measured)
    if resolved is None:
        return None
    return IndexTask(
        space=attempts.parent / shard_name(shard) / space_name(space),
        attempts=attempts,
        recipe=resolved,
        rescore=options.rescore,
        recall=options.recall,
        seed=settings.seed,
        threads=1,
        memory_bytes=shard_index.estimate_memory_bytes(resolved, documents, dim),
    )


def _file_entries(directory: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    paths = [path.relative_to(directory).as_posix() for path in files]
    return dict(zip(paths, version.file_entries(files), strict=True))


def _version_name(
    settings: _Build,
    spaces: Mapping[int, SpaceVectors],
    choices: Mapping[int, RecipeChoice | None],
    *,
    shards: int,
    text_shares: Mapping[str, float],
    thresholds: Mapping[int, DuplicatesThreshold | None],
) -> str:
    """A digest of everything that decides the results; ANN indexes are left out: they follow from the rest.

    A measured choice does not: the times that decide it are never the same twice. Its candidates are named, too: a new
    choice among others must be recorded, or every later build would measure again.
    """
    inputs = {
        "format": FORMAT,
        "faiss": faiss_support.build_tag(),
        "files": {path: file.sha256 for path, file in _file_entries(settings.directory).items()},
        "spaces": {space_name(space): space_vectors.encoder for space, space_vectors in spaces.items()},
        "recipes": {
            space_name(space): [choice.recipe, *choice.candidates]
            for space, choice in choices.items()
            if choice is not None
        },
        "text_shares": text_shares,
        "duplicates": {space_name(space): each and asdict(each) for space, each in thresholds.items()},
        "settings": [shards, settings.seed, settings.exact_floats, *astuple(settings.options)],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _is_intact(location: Path, name: str) -> bool:
    """Whether this version exists already, undamaged."""
    try:
        version.verify(location / name, version.read_manifest(location, name))
    except BadArtifact:
        return False
    return True


def _manifest(
    name: str,
    spaces: Mapping[int, SpaceVectors],
    choices: Mapping[int, RecipeChoice | None],
    indexes: Mapping[int, tuple[IndexEntry, ...]],
    assignment: _ShardAssignment,
    *,
    thresholds: Mapping[int, DuplicatesThreshold | None],
    rescore: str,
    seed: int,
    files: Mapping[str, FileEntry],
) -> Manifest:
    entries = tuple(
        SpaceEntry(
            name=space_name(space),
            dim=space_vectors.vectors.shape[1],
            encoder=space_vectors.encoder,
            rescore=rescore,
            documents=assignment.counts(space_vectors.rows),
            indexes=indexes[space],
            choice=choices[space],
            duplicates=thresholds[space],
        )
        for space, space_vectors in sorted(spaces.items())
    )
    return Manifest(
        version=name, shards=assignment.shards, seed=seed, products=assignment.counts(), spaces=entries, files=files
    )


def _publish(location: Path, directory: Path, manifest: Manifest) -> None:
    """Flush all files to the disk, then rename the directory to the version (replacing a damaged one)."""
    version.write_manifest(directory, manifest)
    for path in (*directory.rglob("*"), directory):
        version.fsync_path(path)
    shutil.rmtree(location / manifest.version, ignore_errors=True)
    directory.rename(location / manifest.version)
    version.fsync_path(location)
