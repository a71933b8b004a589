"""Rollout of versions: what is loaded, kept, dropped and refused, and that nothing is freed during a search."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from index.building.build import SpaceVectors, build
from index.serving.loader import Loader
from index.serving.settings import parse_expected_encoders
from index.serving.shard_version import open_shard
from index.serving.versions import ShardHandle, ShardRolloutMetrics, ShardVersions, describe, handle_of, shard_versions
from lookalike.errors import BadArtifact, BadSettings, FailedPrecondition, Unavailable
from lookalike.releases import version
from lookalike.releases.location import Directory, PinnedFiles
from lookalike.releases.manifest import Manifest
from lookalike.releases.rollout import MAX_RETRY_S, Rollout, versions_to_drop
from lookalike.releases.served_versions import VersionUse
from lookalike.v1 import index_pb2
from tests.unit.index.samples import IMAGE, catalogue, clustered, query_vector, vectors_of

COUNT, DIM = 400, 16
LEASE_S = 30.0
RETRY_S = 5.0


def build_version(location: Path, seed: int) -> str:
    """Build a version and make it current; its vectors depend on the seed, and have an ANN index, so faiss is used."""
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM, seed))}
    return build(location, catalogue(COUNT), spaces, shards=1, seed=seed, exact_floats=100)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Scene:
    """The rollout of a shard over a real location, with a manual clock, reconciled step by step."""

    def __init__(self, location: Path, **expected: str) -> None:
        self.location = location
        self.clock = Clock()
        self.released: list[str] = []
        self.before_dropping: Callable[[str], None] = lambda name: None
        self.served = shard_versions(self.clock, LEASE_S)
        self.loads: list[str] = []
        self.load: Callable[[str], ShardHandle] = Loader(
            location=Directory(location), shard=0, pin_files=self._pin, expected_encoders=expected
        )
        self.rollout = Rollout(
            self.served,
            read_target=lambda: version.read_current(location),
            load=self._record_load,
            clock=self.clock,
            metrics=ShardRolloutMetrics(0),
            retry_s=RETRY_S,
            before_drop=self._before_drop,
        )

    def _before_drop(self, name: str) -> None:
        self.before_dropping(name)

    def _record_load(self, name: str) -> ShardHandle:
        self.loads.append(name)
        return self.load(name)

    def _pin(self, manifest: Manifest, part: str) -> PinnedFiles:
        pinned = Directory(self.location).pin(manifest, part)
        return PinnedFiles(pinned.location, lambda: self.released.append(manifest.version))

    async def advance(self, seconds: float, pinned: str = "") -> None:
        """Advance the clock and reconcile twice: the first may make room for what the second loads."""
        self.clock.now_s += seconds
        if pinned:
            describe(self.served, pinned)
        await self.rollout.reconcile()
        await self.rollout.reconcile()

    def versions(self) -> list[str]:
        """As the shard describes them: the current one first."""
        return [state.version for state in describe(self.served, "").versions]


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    build_version(tmp_path, 1)
    scene = Scene(tmp_path)
    await scene.rollout.start()
    yield scene
    scene.rollout.close()


def search(served: ShardVersions, name: str) -> index_pb2.ShardHits:
    query = index_pb2.ShardQuery(vectors=[query_vector(IMAGE, clustered(COUNT, DIM, 1)[7])], k=5)
    with served.lease(name) as shard:
        (hits,) = shard.search([query]).results
    return hits


def is_mapped(location: Path, name: str) -> bool:
    return f"{location / name}/" in Path("/proc/self/maps").read_text(encoding="utf-8")


async def test_a_new_version_is_served_beside_the_old_one_and_named_first(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = build_version(scene.location, 2)
    await scene.advance(0)
    assert scene.versions() == [new, old]
    assert search(scene.served, old).ids[0] == "p7"
    assert not search(scene.served, new).error


async def test_the_old_version_is_dropped_and_its_files_released_when_no_gateway_pins_it(scene: Scene) -> None:
    old = version.read_current(scene.location)
    await scene.advance(0, pinned=old)
    build_version(scene.location, 2)
    for _ in range(5):
        await scene.advance(LEASE_S - 1, pinned=old)
    assert old in scene.versions()
    assert is_mapped(scene.location, old)
    await scene.advance(LEASE_S)
    assert old not in scene.versions()
    assert scene.released == [old]
    assert not is_mapped(scene.location, old)
    with pytest.raises(FailedPrecondition, match="this shard serves version"):
        search(scene.served, old)


async def test_a_version_that_a_call_leases_stays_until_the_call_has_ended(scene: Scene) -> None:
    old = version.read_current(scene.location)
    build_version(scene.location, 2)
    with scene.served.lease(old) as shard:
        await scene.advance(10 * LEASE_S)
        await scene.advance(10 * LEASE_S)
        assert old in scene.versions()
        assert len(shard.base.table) == COUNT
        del shard
    await scene.advance(0)
    assert old not in scene.versions()


async def test_a_version_that_cannot_be_dropped_yet_stays(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(name: str) -> None:
        raise OSError(28, "No space left on device")

    old = version.read_current(scene.location)
    new = build_version(scene.location, 2)
    with monkeypatch.context() as patch:
        patch.setattr(scene, "before_dropping", fail)
        await scene.advance(0)
        await scene.advance(2 * LEASE_S)
        assert scene.versions() == [new, old]
        assert f"version {old} cannot be dropped" in caplog.text
    await scene.advance(0)
    assert scene.versions() == [new]


async def test_going_back_to_a_version_that_is_still_loaded_needs_no_load(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = build_version(scene.location, 2)
    await scene.advance(0)
    version.make_current(scene.location, old)
    await scene.advance(0)
    assert scene.versions() == [old, new]
    assert scene.loads == [old, new]
    await scene.advance(2 * LEASE_S)
    assert scene.versions() == [old]


async def test_a_version_that_is_no_longer_current_after_its_load_is_not_served(scene: Scene) -> None:
    def load_and_go_back(name: str) -> ShardHandle:
        handle = load(name)
        version.make_current(scene.location, old)
        return handle

    old, load = version.read_current(scene.location), scene.load
    new = build_version(scene.location, 2)
    scene.load = load_and_go_back
    await scene.rollout.reconcile()
    assert (scene.versions(), scene.released) == ([old], [new])
    scene.load = load
    version.make_current(scene.location, new)
    await scene.advance(0)
    assert scene.versions() == [new, old]


async def test_a_third_version_waits_until_one_of_two_is_no_longer_pinned(scene: Scene) -> None:
    first = version.read_current(scene.location)
    second = build_version(scene.location, 2)
    await scene.advance(0, pinned=first)
    third = build_version(scene.location, 3)
    await scene.advance(1, pinned=first)
    assert scene.versions() == [second, first]
    assert not describe(scene.served, first).refusal
    await scene.advance(LEASE_S, pinned=first)  # Another shard has no second version: gateways stay with the first.
    assert scene.versions() == [third, first]


async def test_a_damaged_version_is_refused_with_its_name_and_the_old_one_serves_on(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = build_version(scene.location, 2)
    damaged = scene.location / new / "shard-00000" / "image" / "codes"
    original = damaged.read_bytes()
    damaged.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
    await scene.advance(0)
    assert scene.versions() == [old]
    refusal = describe(scene.served, "").refusal
    assert refusal.startswith(f"version {new}: ")
    assert "codes: damaged: its checksum differs" in refusal
    assert search(scene.served, old).ids[0] == "p7"
    damaged.write_bytes(original)
    await scene.advance(RETRY_S)
    assert scene.versions() == [new, old]
    assert not describe(scene.served, "").refusal


async def test_a_missing_version_is_retried_at_growing_intervals(scene: Scene) -> None:
    (scene.location / version.CURRENT).write_text("missing\n")
    await scene.advance(0)
    assert describe(scene.served, "").refusal.startswith("version missing: ")
    for _ in range(int(3600 / RETRY_S)):
        await scene.advance(RETRY_S)
    tries = scene.loads.count("missing")
    assert 3600 / MAX_RETRY_S < tries < 3600 / MAX_RETRY_S + 8


async def test_another_version_is_tried_at_once_after_failures_of_the_one_before(scene: Scene) -> None:
    good = version.read_current(scene.location)
    (scene.location / version.CURRENT).write_text("missing\n")
    for _ in range(9):
        await scene.advance(60, pinned=good)
    new = build_version(scene.location, 2)
    await scene.advance(0)
    assert scene.versions() == [new, good]


async def test_the_loaded_version_serves_on_while_current_cannot_be_read(scene: Scene) -> None:
    old = version.read_current(scene.location)
    (scene.location / version.CURRENT).unlink()
    await scene.advance(0)
    assert scene.versions() == [old]
    assert "CURRENT: no index here" in describe(scene.served, "").refusal
    version.make_current(scene.location, old)
    await scene.advance(0)
    assert not describe(scene.served, "").refusal


async def test_vectors_of_an_encoder_that_is_not_expected_are_refused(tmp_path: Path) -> None:
    build_version(tmp_path, 1)
    scene = Scene(tmp_path, image="drawn")
    await scene.rollout.start()
    other = vectors_of(clustered(COUNT, DIM, 2), encoder="another")
    new = build(tmp_path, catalogue(COUNT), {IMAGE: other}, shards=1)
    await scene.advance(0)
    refusal = describe(scene.served, "").refusal
    assert refusal == f"version {new}: {tmp_path}: its image vectors are of encoder another, expected drawn"
    scene.rollout.close()


async def test_a_version_with_vectors_of_another_dimension_than_its_manifest_says_is_refused(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = build_version(scene.location, 2)
    manifest = version.read_manifest(scene.location, new)
    array = scene.location / new / "shard-00000" / "image" / "vectors.npy"
    np.save(array, np.zeros((COUNT, DIM + 1), np.float32))
    manifest.files["shard-00000/image/vectors.npy"] = version.file_entry(array)  # type: ignore[index]  # a Mapping elsewhere
    version.write_manifest(scene.location / new, manifest)
    await scene.advance(0)
    assert scene.versions() == [old]
    assert f"expected {COUNT} vectors of {DIM} dimensions" in describe(scene.served, "").refusal


async def test_the_loaded_version_serves_on_after_an_unexpected_error(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def raise_a_bug(name: str) -> ShardHandle:
        raise ZeroDivisionError("a bug")

    old = version.read_current(scene.location)
    new = build_version(scene.location, 2)
    monkeypatch.setattr(scene, "load", raise_a_bug)
    await scene.advance(0)
    assert (scene.versions(), describe(scene.served, "").refusal) == ([old], f"version {new}: a bug")
    assert "ZeroDivisionError" in caplog.text


async def test_the_files_of_a_version_that_is_not_admitted_are_released(scene: Scene) -> None:
    async def refuse(handle: ShardHandle) -> None:
        raise BadArtifact("its changes cannot be read")

    old = version.read_current(scene.location)
    scene.rollout = Rollout(
        scene.served,
        read_target=lambda: version.read_current(scene.location),
        load=scene.load,
        clock=scene.clock,
        metrics=ShardRolloutMetrics(0),
        retry_s=RETRY_S,
        admit=refuse,
    )
    new = build_version(scene.location, 2)
    await scene.advance(0)
    assert (scene.versions(), scene.released) == ([old], [new])
    scene.rollout.close()


async def test_a_shard_that_can_serve_nothing_does_not_start(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(BadArtifact, match="no index here"):
        await scene.rollout.start()
    with pytest.raises(Unavailable, match="still loading"):
        describe(scene.served, "")
    scene.rollout.close()


@pytest.mark.parametrize("expect", ["image", "image=", "sound=x", "=x"])
def test_an_expected_encoder_must_name_a_space_and_a_fingerprint(expect: str) -> None:
    with pytest.raises(BadSettings, match="expected space=fingerprint"):
        parse_expected_encoders(("text=y", expect))


IDLE, PINNED, CALLED = VersionUse(0, 0.0), VersionUse(0, 99.0), VersionUse(1, 0.0)


@pytest.mark.parametrize(
    ("uses", "target", "dropped"),
    [
        ({"a": IDLE}, "a", []),
        ({"a": IDLE}, "b", []),
        ({"a": IDLE, "b": IDLE}, "b", ["a"]),
        ({"a": PINNED, "b": IDLE}, "b", []),
        ({"a": CALLED, "b": IDLE}, "b", []),
        ({"a": IDLE, "b": IDLE}, "a", ["b"]),
        ({"a": IDLE, "b": IDLE}, "c", ["a"]),
        ({"a": PINNED, "b": IDLE}, "c", ["b"]),
        ({"a": IDLE, "b": CALLED}, "c", ["a"]),
        ({"a": PINNED, "b": CALLED}, "c", []),
    ],
)
def test_unneeded_versions_are_dropped_and_one_always_serves(
    uses: dict[str, VersionUse], target: str, dropped: list[str]
) -> None:
    assert versions_to_drop(uses, target, current="b" if "b" in uses else "a", now_s=10.0) == dropped


@pytest.mark.slow
async def test_nothing_is_freed_during_a_search_over_many_rollouts(tmp_path: Path) -> None:
    names = [build_version(tmp_path, seed) for seed in (1, 2, 3)]
    scene = Scene(tmp_path)
    await scene.rollout.start()
    ended, failures = threading.Event(), list[BaseException]()
    searching = [threading.Thread(target=_search, args=(scene, ended.is_set, failures)) for _ in range(4)]
    for thread in searching:
        thread.start()
    try:
        for change in range(30):
            version.make_current(tmp_path, names[change % len(names)])
            await scene.advance(2 * LEASE_S)
            gc.collect()
    finally:
        ended.set()
        for thread in searching:
            await asyncio.to_thread(thread.join)
    await scene.advance(2 * LEASE_S)
    await scene.advance(2 * LEASE_S)
    assert not failures
    assert scene.versions() == [names[29 % 3]]
    assert [is_mapped(tmp_path, name) for name in names] == [name == names[29 % 3] for name in names]
    assert len(scene.released) == len(scene.loads) - 1
    scene.rollout.close()


def _search(scene: Scene, ended: Callable[[], bool], failures: list[BaseException]) -> None:
    """Search whichever versions are served, as calls do, until the end."""
    while not ended():
        for name in scene.served.uses():
            try:
                with scene.served.lease(name):
                    assert not search(scene.served, name).error
                    assert scene.released.count(name) < scene.loads.count(name), "released during a search"
            except FailedPrecondition:
                pass  # It was dropped between the listing and the call.
            except BaseException as error:
                failures.append(error)
                raise


def test_a_lease_counts_as_one_call_however_it_ends(tmp_path: Path) -> None:
    name = build_version(tmp_path, 1)
    served = shard_versions(Clock(), LEASE_S)
    served.add(handle_of(open_shard(tmp_path, 0)))
    with served.lease(name), served.lease(name):
        assert served.uses()[name].calls == 2
        assert served.remove(name) is None
    with pytest.raises(ZeroDivisionError), served.lease(name) as shard:
        shard.count(1 / 0)  # type: ignore[arg-type]  # not reached
    assert served.uses()[name].calls == 0
