"""The cache of a store: what is fetched, kept, thrown out, mended, and shared between processes."""

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
from index.storage import version
from index.storage.cache import Cache
from index.storage.location import Held
from index.storage.store import Store
from lookalike.errors import BadArtifact, OperatorError
from tests import stores
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

COUNT, SHARDS = 60, 2
PLENTY = 1 << 30


@dataclass
class Scene:
    """Three versions in a store on this disk, which several processes can read."""

    store: Store
    names: list[str]
    lying: Path  # Where the store's files are.
    kept: Path

    def cache(self, max_bytes: int = PLENTY) -> Cache:
        return Cache(self.store, self.kept, max_bytes, lambda: False)

    def hold(self, name: str, cache: Cache, shard: int = 0) -> Held:
        return cache.hold(self.store.read(name), shard)

    def bytes_of(self, name: str) -> int:
        files = self.store.read(name).files
        return sum(file.bytes for path, file in files.items() if path.startswith("shard-00000"))

    def entries(self) -> set[str]:
        """The versions that are kept; that nothing else is."""
        entries = {path.name for path in self.kept.iterdir() if path.is_dir()}
        assert all(entry.endswith(("-shard-00000", "-shard-00001")) for entry in entries), entries
        return {entry.rpartition("-shard")[0] for entry in entries}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    built, lying = tmp_path / "built", tmp_path / "store"
    store = stores.stored(f"file://{lying}", "")
    names = []
    for seed in (1, 2, 3):
        given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, seed))}
        names.append(build(built, catalogue(COUNT), given, shards=SHARDS))
        store.publish(built, names[-1])
    return Scene(store, names, lying, tmp_path / "kept")


def test_only_the_shard_that_is_asked_for_is_fetched_and_once(scene: Scene) -> None:
    (name, *_) = scene.names
    manifest = scene.store.read(name)
    held = scene.cache().hold(manifest, 1)
    assert len(map_shard(held.location, manifest, 1).base.table) == manifest.products[1]
    assert not (held.location / name / "shard-00000").exists()
    held.release()
    scene.store.drop(name)
    again = scene.cache().hold(manifest, 1)  # As after a restart: the store no longer has it.
    assert again.location == held.location
    again.release()


@pytest.mark.parametrize(
    "damage", [lambda data: data[:-1], lambda data: data[:200] + b"?" + data[201:]], ids=["truncated", "changed"]
)
def test_a_kept_file_that_is_damaged_is_fetched_again(scene: Scene, damage: Callable[[bytes], bytes]) -> None:
    (name, *_) = scene.names
    held = scene.hold(name, scene.cache())
    file = held.location / name / "shard-00000" / "attributes.arrow"
    whole = file.read_bytes()
    held.release()
    file.write_bytes(damage(whole))
    held = scene.hold(name, scene.cache())
    assert (held.location / name / "shard-00000" / "attributes.arrow").read_bytes() == whole
    held.release()


def test_what_is_damaged_in_the_store_is_refused_by_name_and_not_kept(scene: Scene) -> None:
    (name, *_) = scene.names
    file = scene.lying / name / "shard-00000" / "attributes.arrow"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(BadArtifact, match=f"{name}/shard-00000/attributes.arrow: damaged: its checksum differs"):
        scene.hold(name, scene.cache())
    assert scene.entries() == set()


def test_what_was_not_used_longest_goes_when_there_must_be_room(scene: Scene) -> None:
    first, second, third = scene.names
    cache = scene.cache(int(scene.bytes_of(first) * 2.5))
    for name in (first, second, first):
        scene.hold(name, cache).release()
    scene.hold(third, cache).release()
    assert scene.entries() == {first, third}


def test_what_is_in_use_does_not_go_and_what_has_no_room_beside_it_is_refused(scene: Scene) -> None:
    first, second, third = scene.names
    cache, other = scene.cache(int(scene.bytes_of(first) * 2.5)), scene.cache(int(scene.bytes_of(first) * 2.5))
    held, also = scene.hold(first, cache), scene.hold(second, other)
    with pytest.raises(
        OperatorError, match=f"no room for version {third}: a shard of it has {scene.bytes_of(third)} b"
    ):
        scene.hold(third, cache)
    assert scene.entries() == {first, second}
    held.release()
    scene.hold(third, cache).release()
    assert scene.entries() == {second, third}
    also.release()


def test_a_version_larger_than_the_bound_is_refused_and_throws_nothing_out_that_is_in_use(scene: Scene) -> None:
    first, second, _ = scene.names
    held = scene.hold(first, scene.cache())
    with pytest.raises(OperatorError, match=f"no room for version {second}"):
        scene.hold(second, scene.cache(100))
    assert scene.entries() == {first}
    held.release()


def test_what_a_killed_process_left_is_cleared_away_and_what_another_fetches_is_not(scene: Scene) -> None:
    left, living = scene.kept / ".part-left", scene.kept / ".part-living"
    for part in (left, living):
        part.mkdir(parents=True)
        (part / ".lock").touch()
        (part / "vectors.npy").write_bytes(bytes(1000))
    lock = os.open(living / ".lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)
    scene.hold(scene.names[0], scene.cache()).release()
    assert (left.exists(), living.exists()) == (False, True)
    with pytest.raises(OperatorError, match="are in use"):  # Space that is taken for a fetch counts.
        scene.hold(scene.names[1], scene.cache(scene.bytes_of(scene.names[1]) + 500))
    os.close(lock)
    scene.hold(scene.names[1], scene.cache()).release()
    assert not living.exists()


def test_a_cache_that_cannot_be_written_is_the_operators_to_mend(scene: Scene) -> None:
    scene.kept.write_text("a file")
    with pytest.raises(OperatorError, match="kept"):
        scene.hold(scene.names[0], scene.cache())


HOLDS = """
import json, sys
from pathlib import Path
from index.serving.shard_version import map_shard
from index.storage.cache import Cache
from index.storage.location import located
url, kept, most, shard, *names = sys.argv[1:]
store = located(url)
cache = Cache(store, Path(kept), int(most), lambda: False)
failures = []
for name in names:
    try:
        manifest = store.read(name)
        held = cache.hold(manifest, int(shard))
        assert len(map_shard(held.location, manifest, int(shard)).base.table) == manifest.products[int(shard)]
        held.release()
    except Exception as error:
        failures.append(f"{type(error).__name__}: {error}")
print(json.dumps(failures))
"""


def holding(scene: Scene, max_bytes: int, shard: int, names: list[str], *before: str) -> subprocess.Popen[str]:
    """A process that holds and releases versions, one after another; it prints why it could not."""
    words = [str(scene.store), str(scene.kept), str(max_bytes), str(shard), *names]
    command = [*before, sys.executable, "-c", HOLDS, *words]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def failures(process: subprocess.Popen[str]) -> list[str]:
    out, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    told: list[str] = json.loads(out)
    return told


@pytest.mark.slow
def test_processes_that_share_a_cache_and_throw_each_others_files_out_all_get_whole_files(scene: Scene) -> None:
    room = int(scene.bytes_of(scene.names[0]) * 5)
    processes = [holding(scene, room, i % SHARDS, scene.names[i:] + scene.names * 20) for i in range(4)]
    assert [failures(process) for process in processes] == [[]] * 4
    for name in scene.entries():
        manifest = scene.store.read(name)
        for shard in range(SHARDS):
            if (entry := scene.kept / f"{name}-shard-0000{shard}").exists():
                version.verify(entry / name, manifest, f"shard-0000{shard}/")


@pytest.mark.slow
def test_a_full_disk_is_told_before_anything_is_fetched_and_leaves_nothing(scene: Scene) -> None:
    """On a real filesystem of 64 KiB, mounted where nobody else sees it."""
    small = ["unshare", "--map-root-user", "--mount", "sh", "-c", 'mount -t tmpfs -o size=64k none "$0" && exec "$@"']
    scene.kept.mkdir()
    if subprocess.run([*small, str(scene.kept), "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a filesystem")
    ballast = scene.lying / scene.names[0]
    manifest = scene.store.read(scene.names[0])
    big = ballast / "shard-00000" / "attributes.arrow"
    big.write_bytes(big.read_bytes() + bytes(100_000))
    manifest.files["shard-00000/attributes.arrow"] = version.entry(big)  # type: ignore[index]  # a Mapping elsewhere
    version.write(ballast, manifest)
    listed = [scene.names[0], scene.names[1]]
    (full,) = failures(holding(scene, PLENTY, 0, listed, *small, str(scene.kept)))  # The second fits.
    assert full.startswith(f"OperatorError: {scene.kept}: ")
    assert "No space left on device" in full
