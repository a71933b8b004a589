"""Build the index of one space in one shard: a task that any engine runs. Reads and writes files.

It writes into a new directory of its own, so that an attempt that dies with its machine, or goes on after it was given
up for lost, leaves nothing in the version: `place` puts the file of the attempt that counts where it belongs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from index.backends import cost_model, factory, recipe
from index.building.calibration import calibrate, draw_queries
from index.storage import vectors
from index.storage.names import ANN_INDEX, VECTORS
from lookalike.releases import version
from lookalike.releases.manifest import IndexEntry

# Beside the index and its copy: vectors to train on and the queries' exact neighbours, a chunk at a time.
_WORKING_BYTES = 512 << 20


@dataclass(frozen=True, kw_only=True)
class IndexTask:
    """What the index of one space in one shard is built from, and how."""

    space: Path  # The directory of the space in the shard.
    attempts: Path  # The directory that attempts write to.
    recipe: recipe.Recipe
    rescore: str
    recall: float
    seed: int
    threads: int
    memory_bytes: int  # Estimated peak.


@dataclass(frozen=True, kw_only=True)
class BuiltIndex:
    """What an attempt has written. path: None, no index reaches the recall, so the space is searched exactly."""

    entry: IndexEntry
    path: Path | None = None


def build_index(task: IndexTask) -> BuiltIndex:
    """Train, calibrate and write an index."""
    mapped = vectors.open_vectors(task.space / VECTORS, rescore=task.rescore)
    query_positions = draw_queries(len(mapped), task.seed)
    index = factory.train_index(task.recipe, mapped, task.seed, task.threads, held_out=query_positions)
    operating_points = calibrate(index, mapped, query_positions, task.recall)
    if not operating_points:
        return BuiltIndex(entry=IndexEntry())
    directory = task.attempts / uuid4().hex
    directory.mkdir()
    path = directory / ANN_INDEX
    index.write(path)
    for written in (path, *path.rglob("*")):
        version.fsync_path(written)  # On a shared file system, others see what was synchronised.
    return BuiltIndex(entry=IndexEntry(recipe=str(task.recipe), operating_points=operating_points), path=path)


def place(built: BuiltIndex, task: IndexTask) -> IndexEntry:
    """Move the file of a successful attempt to its place in the shard."""
    if built.path is not None:
        built.path.rename(task.space / ANN_INDEX)
    return built.entry


def estimate_memory_bytes(resolved: recipe.Recipe, documents: int, dim: int) -> int:
    """Estimated peak memory of `build_index`, mapped vectors left out: the kernel gives those up."""
    full = 4 * dim * documents
    if isinstance(resolved, recipe.NgtRecipe):
        return 4 * full + _WORKING_BYTES  # Twice the index, which holds all vectors and links.
    sample = min(full, 4 * dim * 64 * resolved.nlist) if isinstance(resolved, recipe.IvfRecipe) else 0
    # A copy: the calibration's, or that of the library while it builds.
    return round(2 * cost_model.ram_bytes(resolved, documents, dim)) + sample + _WORKING_BYTES
