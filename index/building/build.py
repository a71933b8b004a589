"""Build a version of an index in a location, and let it serve. Reads arrays, writes files.

A version is made in LOCATION/.building, renamed when whole, and named by CURRENT last: an interrupted build leaves
nothing that serves. Its name is a digest of what went into it, so the same inputs give the same name and answers.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from index.building.ladder import EXACT_FLOATS, TARGET_RECALL, measured
from index.kinds import choice, engine, recipe
from index.storage import attributes, vectors, version
from index.storage.manifest import FORMAT, FileEntry, IndexEntry, Manifest, SpaceEntry
from index.storage.names import ATTRIBUTES, CODES, ROWS, VECTORS, shard_name
from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.runtime.partition import shard_of
from lookalike.spaces import space_name
from lookalike.vectors import F32, I64, normalised

Progress = Callable[[str, int, int], None]  # What is under way, steps done, steps in all.
MAX_SHARDS = 4096
_BUILDING = ".building"
_CHUNK_BYTES = 32 << 20


@dataclass(frozen=True, kw_only=True)
class SpaceVectors:
    """vectors (m, dim) float32 of any length but zero, possibly memory-mapped; rows (m,): the product of each."""

    encoder: str
    vectors: F32
    rows: I64


@dataclass(frozen=True, kw_only=True)
class Form:
    """What the index of every space and shard is to be like."""

    recipe: str = recipe.AUTO  # A name that index/kinds/recipe.py knows.
    rescore: str = "float32"  # float16 takes half the disk; scores then are of the rounded vectors.
    recall: float = TARGET_RECALL  # Of the k nearest, for every k; what cannot reach it is searched exactly.


AS_USUAL = Form()


def build(
    location: Path,
    products: pa.Table,
    spaces: Mapping[int, SpaceVectors],
    *,
    shards: int,
    form: Form = AS_USUAL,
    seed: int = 0,
    threads: int = 1,
    exact_floats: int = EXACT_FLOATS,
    progress: Progress | None = None,
) -> str:
    """Build, verify and publish a version; returns its name. Vectors are scaled to unit norm.

    exact_floats: with the recipe `auto` a shard's space of at most so many floats is searched exactly.
    Raises BadCatalogue or BadArtifact with the row at fault; BadSettings for a form that cannot be made of the vectors;
    OperatorError while another build is under way here.
    """
    if not 1 <= shards <= MAX_SHARDS:
        raise OperatorError(f"{shards} shards: not in 1..{MAX_SHARDS}")
    _check_form(form)
    table = attributes.checked(products)
    for space, given in spaces.items():
        _check(space_name(space), given, table.num_rows)
    step = _steps(progress, shards * (1 + 2 * len(spaces)) + 1)
    with _workplace(location) as directory:
        partition = _Partition.of(table["id"], shards)
        for given in spaces.values():  # Before anything is written: that takes long where there is much.
            for documents in partition.counts(given.rows):
                recipe.resolved(form.recipe, documents, given.vectors.shape[1], exact_floats)
        for shard in range(shards):
            step(f"writing the products of shard {shard}")
            (directory / shard_name(shard)).mkdir()
            attributes.write(directory / shard_name(shard) / ATTRIBUTES, table.take(partition.rows(shard)))
            for space, given in sorted(spaces.items()):
                step(f"writing the {space_name(space)} vectors of shard {shard}")
                _write_vectors(directory / shard_name(shard) / space_name(space), given, partition, shard, form)
        name = _name(directory, spaces, form, shards=shards, seed=seed, exact_floats=exact_floats)
        if not _is_whole(location, name):
            indexes = {
                space: tuple(
                    _index(step, directory, shard, space, form, seed=seed, threads=threads, most=exact_floats)
                    for shard in range(shards)
                )
                for space in sorted(spaces)
            }
            step("computing checksums")
            files = _files(directory)
            _publish(location, directory, _manifest(name, spaces, form, indexes, partition, seed=seed, files=files))
        version.make_current(location, name)
    step("done")
    return name


def _steps(progress: Progress | None, total: int) -> Callable[[str], None]:
    done = 0

    def step(what: str) -> None:
        nonlocal done
        if progress is not None:
            progress(what, done, total)
        done += 1

    return step


@contextmanager
def _workplace(location: Path) -> Iterator[Path]:
    """An empty directory in the location, for one build at a time; what is left of it afterwards goes away."""
    try:
        location.mkdir(parents=True, exist_ok=True)
        with version.alone(location):
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
class _Partition:
    """Where each product goes: the owner and the row in the owner's table."""

    shards: int
    order: I64  # Rows of the catalogue by rising id.
    owners: npt.NDArray[np.int32]  # (n,) by catalogue row.
    places: I64  # (n,) by catalogue row.

    @classmethod
    def of(cls, ids: pa.ChunkedArray, shards: int) -> _Partition:
        order = pc.sort_indices(ids).to_numpy().astype(np.int64)
        owners = np.fromiter((shard_of(product_id, shards) for product_id in ids.to_pylist()), np.int32, len(ids))
        places = np.empty(len(ids), dtype=np.int64)
        for shard in range(shards):
            rows = order[owners[order] == shard]
            places[rows] = np.arange(len(rows))
        return cls(shards=shards, order=order, owners=owners, places=places)

    def rows(self, shard: int) -> I64:
        """The catalogue rows of a shard, by rising id."""
        mine: I64 = self.order[self.owners[self.order] == shard]
        return mine

    def counts(self, rows: I64 | slice = slice(None)) -> tuple[int, ...]:
        return tuple(np.bincount(self.owners[rows], minlength=self.shards).tolist())


def _check_form(form: Form) -> None:
    if form.recipe != recipe.AUTO:
        recipe.parsed(form.recipe)
    if form.rescore not in vectors.RESCORES:
        raise BadSettings(f"rescore {form.rescore!r}: allowed are {', '.join(vectors.RESCORES)}")
    if not 0 < form.recall <= 1:
        raise BadSettings(f"recall {form.recall}: not above 0 and at most 1")


def _check(name: str, given: SpaceVectors, products: int) -> None:
    found, rows = given.vectors, given.rows
    if found.ndim != 2 or found.dtype != np.float32 or not found.shape[1]:
        raise BadArtifact(f"{name}: vectors are {found.dtype} {found.shape}, not float32 (n, dim)")
    if rows.shape != (len(found),):
        raise BadArtifact(f"{name}: {len(found)} vectors, but {rows.shape} rows")
    if len(rows) and not (rows.min() >= 0 and rows.max() < products):
        raise BadArtifact(f"{name}: a row is not in 0..{products - 1}")
    if len(np.unique(rows)) != len(rows):
        raise BadArtifact(f"{name}: a product has two vectors")


def _write_vectors(directory: Path, given: SpaceVectors, partition: _Partition, shard: int, form: Form) -> None:
    directory.mkdir()
    mine = np.flatnonzero(partition.owners[given.rows] == shard)
    mine = mine[np.argsort(partition.places[given.rows[mine]])]
    np.save(directory / ROWS, partition.places[given.rows[mine]])
    dim = given.vectors.shape[1]
    step = max(1, _CHUNK_BYTES // (4 * dim))
    chosen = (mine[start : start + step] for start in range(0, len(mine), step))
    parts = (_unit(directory.name, given.vectors[rows], rows) for rows in chosen)
    vectors.write(directory / VECTORS, parts, documents=len(mine), dim=dim, rescore=form.rescore)


def _unit(name: str, given: F32, rows: I64) -> F32:
    if not (finite := np.isfinite(given).all(axis=1)).all():
        raise BadArtifact(f"{name}: vector {rows[finite.argmin()]} is not finite")
    if not (nonzero := given.any(axis=1)).all():
        raise BadArtifact(f"{name}: vector {rows[nonzero.argmin()]} is zero: it is similar to nothing")
    return normalised(given)


def _index(
    step: Callable[[str], None],
    directory: Path,
    shard: int,
    space: int,
    form: Form,
    *,
    seed: int,
    threads: int,
    most: int,
) -> IndexEntry:
    """Train, measure and write the index of one space in one shard, unless it is to be searched exactly."""
    step(f"indexing the {space_name(space)} vectors of shard {shard}")
    here = directory / shard_name(shard) / space_name(space)
    mapped = vectors.mapped(here / VECTORS, rescore=form.rescore)
    documents, dim = mapped.shape
    wanted = recipe.resolved(form.recipe, documents, dim, most)
    if wanted is None:
        return IndexEntry()
    made = choice.trained(wanted, mapped, seed, threads)
    ladder = measured(made, mapped, seed, form.recall)
    if not ladder:
        return IndexEntry()
    made.write(here / CODES)
    return IndexEntry(recipe=str(wanted), ladder=ladder)


def _files(directory: Path) -> dict[str, FileEntry]:
    files = sorted(path for path in directory.rglob("*") if path.is_file())
    paths = [path.relative_to(directory).as_posix() for path in files]
    return dict(zip(paths, version.entries(files), strict=True))


def _name(
    directory: Path,
    spaces: Mapping[int, SpaceVectors],
    form: Form,
    *,
    shards: int,
    seed: int,
    exact_floats: int,
) -> str:
    """A digest of everything that decides the answers; codes are left out: they follow from the rest."""
    inputs = {
        "format": FORMAT,
        "faiss": engine.build_tag(),
        "files": {path: file.sha256 for path, file in _files(directory).items()},
        "spaces": {space_name(space): given.encoder for space, given in spaces.items()},
        "settings": [shards, seed, exact_floats, *astuple(form)],
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _is_whole(location: Path, name: str) -> bool:
    """Whether this very version is here already, undamaged."""
    try:
        version.verify(location / name, version.read(location, name))
    except BadArtifact:
        return False
    return True


def _manifest(
    name: str,
    spaces: Mapping[int, SpaceVectors],
    form: Form,
    indexes: Mapping[int, tuple[IndexEntry, ...]],
    partition: _Partition,
    *,
    seed: int,
    files: Mapping[str, FileEntry],
) -> Manifest:
    entries = tuple(
        SpaceEntry(
            name=space_name(space),
            dim=given.vectors.shape[1],
            encoder=given.encoder,
            rescore=form.rescore,
            documents=partition.counts(given.rows),
            indexes=indexes[space],
        )
        for space, given in sorted(spaces.items())
    )
    return Manifest(
        version=name, shards=partition.shards, seed=seed, products=partition.counts(), spaces=entries, files=files
    )


def _publish(location: Path, directory: Path, manifest: Manifest) -> None:
    """See that all is on the disk, then give it its name (in place of a damaged one, if there is one)."""
    version.write(directory, manifest)
    for path in (*directory.rglob("*"), directory):
        version.sync(path)
    shutil.rmtree(location / manifest.version, ignore_errors=True)
    directory.rename(location / manifest.version)
    version.sync(location)
