"""The cache of shards from a store: fetching, eviction, repair, and sharing between processes."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from index.building.build import SpaceVectors, build
from index.serving.shard_version import map_shard
from lookalike.errors import BadArtifact, OperatorError
from lookalike.releases import version
from lookalike.releases.cache import FileCache
from lookalike.releases.location import PinnedFiles
from lookalike.releases.names import shard_name
from lookalike.releases.store import ObjectStore
from tests import stores
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

COUNT, SHARDS = 60, 2
PLENTY = 1 << 30


@dataclass
class Scene:
    """Three versions in a store on this disk, which several processes can read, and a cache directory."""

    store: ObjectStore
    names: list[str]
    store_directory: Path  # The store's files.
    cache_directory: Path

    def cache(self, max_bytes: int = PLENTY) -> FileCache:
        return FileCache(self.store, self.cache_directory, max_bytes, lambda: False)

    def pin(self, name: str, cache: FileCache, shard: int = 0) -> PinnedFiles:
        return cache.pin(self.store.read_manifest(name), shard_name(shard))

    def bytes_of(self, name: str) -> int:
        files = self.store.read_manifest(name).files
        return sum(file.bytes for path, file in files.items() if path.startswith("shard-00000"))

    def entries(self) -> set[str]:
        """The versions that are cached; asserts that nothing else is."""
        entries = {path.name for path in self.cache_directory.iterdir() if path.is_dir()}
        assert all(entry.endswith(("-shard-00000", "-shard-00001")) for entry in entries), entries
        return {entry.rpartition("-shard")[0] for entry in entries}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    built, store_directory = tmp_path / "built", tmp_path / "store"
    store = stores.stored(f"file://{store_directory}", "")
    names = []
    for seed in (1, 2, 3):
        spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, seed))}
        names.append(build(built, catalogue(COUNT), spaces, shards=SHARDS))
        store.publish(built, names[-1])
    return Scene(store, names, store_directory, tmp_path / "cache")


def test_only_the_requested_shard_is_fetched_and_only_once(scene: Scene) -> None:
    (name, *_) = scene.names
    manifest = scene.store.read_manifest(name)
    pinned = scene.cache().pin(manifest, shard_name(1))
    assert len(map_shard(pinned.location, manifest, 1).base.table) == manifest.products[1]
    assert not (pinned.location / name / "shard-00000").exists()
    pinned.release()
    scene.store.drop(name)
    again = scene.cache().pin(manifest, shard_name(1))  # As after a restart: the store no longer has it.
    assert again.location == pinned.location
    again.release()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:200] + b"?" + data[201:]], ids=["truncated", "changed"]
)
def test_a_damaged_cached_file_is_fetched_again(scene: Scene, damage: Callable[[bytes], bytes]) -> None:
    (name, *_) = scene.names
    pinned = scene.pin(name, scene.cache())
    file = pinned.location / name / "shard-00000" / "attributes.arrow"
    original = file.read_bytes()
    pinned.release()
    file.write_bytes(damage(original))
    pinned = scene.pin(name, scene.cache())
    assert (pinned.location / name / "shard-00000" / "attributes.arrow").read_bytes() == original
    pinned.release()


def test_a_file_damaged_in_the_store_is_named_and_not_cached(scene: Scene) -> None:
    (name, *_) = scene.names
    file = scene.store_directory / name / "shard-00000" / "attributes.arrow"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BadArtifact, match=f"{name}/shard-00000/attributes.arrow: damaged: its checksum differs"):
        scene.pin(name, scene.cache())
    assert scene.entries() == set()


def test_the_least_recently_used_entry_is_evicted(scene: Scene) -> None:
    first, second, third = scene.names
    cache = scene.cache(int(scene.bytes_of(first) * 2.5))
    for name in (first, second, first):
        scene.pin(name, cache).release()
    scene.pin(third, cache).release()
    assert scene.entries() == {first, third}


def test_pinned_entries_are_not_evicted_and_a_version_that_does_not_fit_beside_them_is_refused(scene: Scene) -> None:
    first, second, third = scene.names
    cache, other = scene.cache(int(scene.bytes_of(first) * 2.5)), scene.cache(int(scene.bytes_of(first) * 2.5))
    pinned, also = scene.pin(first, cache), scene.pin(second, other)
    with pytest.raises(OperatorError, match=f"no room for version {third}: a part of it has {scene.bytes_of(third)} b"):
        scene.pin(third, cache)
    assert scene.entries() == {first, second}
    pinned.release()
    scene.pin(third, cache).release()
    assert scene.entries() == {second, third}
    also.release()


def test_a_version_larger_than_the_cache_is_refused_and_evicts_nothing_pinned(scene: Scene) -> None:
    first, second, _ = scene.names
    pinned = scene.pin(first, scene.cache())
    with pytest.raises(OperatorError, match=f"no room for version {second}"):
        scene.pin(second, scene.cache(100))
    assert scene.entries() == {first}
    pinned.release()


def test_parts_of_a_killed_process_are_removed_and_those_of_a_living_one_are_not(scene: Scene) -> None:
    dead, living = scene.cache_directory / ".part-dead", scene.cache_directory / ".part-living"
    for part in (dead, living):
        part.mkdir(parents=True)
        (part / ".lock").touch()
        (part / "vectors.npy").write_bytes(bytes(1000))
    lock = os.open(living / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    scene.pin(scene.names[0], scene.cache()).release()
    assert (dead.exists(), living.exists()) == (False, True)
    with pytest.raises(OperatorError, match="are in use"):  # Space allocated for a fetch counts.
        scene.pin(scene.names[1], scene.cache(scene.bytes_of(scene.names[1]) + 500))
    os.close(lock)
    scene.pin(scene.names[1], scene.cache()).release()
    assert not living.exists()


def test_a_cache_directory_that_cannot_be_written_is_an_operator_error(scene: Scene) -> None:
    scene.cache_directory.write_text("a file")
    with pytest.raises(OperatorError, match="cache"):
        scene.pin(scene.names[0], scene.cache())


PIN_AND_RELEASE = """
import json, sys
from pathlib import Path
from index.serving.shard_version import map_shard
from lookalike.releases.cache import FileCache
from lookalike.releases.names import shard_name
from lookalike.releases.location import open_location
url, directory, max_bytes, shard, *names = sys.argv[1:]
store = open_location(url)
cache = FileCache(store, Path(directory), int(max_bytes), lambda: False)
failures = []
for name in names:
    try:
        manifest = store.read_manifest(name)
        pinned = cache.pin(manifest, shard_name(int(shard)))
        assert len(map_shard(pinned.location, manifest, int(shard)).base.table) == manifest.products[int(shard)]
        pinned.release()
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")
print(json.dumps(failures))
"""


def pinning_process(scene: Scene, max_bytes: int, shard: int, names: list[str], *before: str) -> subprocess.Popen[str]:
    """A process that pins and releases versions, one after another; it prints its failures."""
    words = [str(scene.store), str(scene.cache_directory), str(max_bytes), str(shard), *names]
    command = [*before, sys.executable, "-c", PIN_AND_RELEASE, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def failures(process: subprocess.Popen[str]) -> list[str]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    messages: list[str] = json.loads(out)
    return messages


@pytest.mark.slow
def test_processes_that_share_a_cache_and_evict_each_others_entries_all_get_complete_files(scene: Scene) -> None:
    room = int(scene.bytes_of(scene.names[0]) * 5)
    processes = [pinning_process(scene, room, i % SHARDS, scene.names[i:] + scene.names * 20) for i in range(4)]
    assert [failures(process) for process in processes] == [[]] * 4
    for name in scene.entries():
        manifest = scene.store.read_manifest(name)
        for shard in range(SHARDS):
            if (entry := scene.cache_directory / f"{name}-shard-0000{shard}").exists():
                version.verify(entry / name, manifest, f"shard-0000{shard}/")


@pytest.mark.slow
def test_a_full_disk_is_reported_before_anything_is_fetched_and_leaves_nothing(scene: Scene) -> None:
    """On a real filesystem of 64 KiB, mounted where nobody else sees it."""
    small = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']
    scene.cache_directory.mkdir()
    if subprocess.run([*small, str(scene.cache_directory), "true"], capture_output=True, check=False).returncode:
        pytest.skip("mounting a filesystem is not allowed on this machine")
    ballast = scene.store_directory / scene.names[0]
    manifest = scene.store.read_manifest(scene.names[0])
    big = ballast / "shard-00000" / "attributes.arrow"
    big.write_bytes(big.read_bytes() + bytes(100_000))
    manifest.files["shard-00000/attributes.arrow"] = version.file_entry(big)  # type: ignore[index]  # a Mapping elsewhere
    version.write_manifest(ballast, manifest)
    listed = [scene.names[0], scene.names[1]]
    (full,) = failures(
        pinning_process(scene, PLENTY, 0, listed, *small, str(scene.cache_directory))
    )  # The second fits.
    assert full.startswith(f"OperatorError: {scene.cache_directory}: ")
    assert "No space left on device" in full
