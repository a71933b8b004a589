"""From one version to the next: what is loaded, kept, dropped and refused, and that nothing is freed under a search."""

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
from index.serving.loaded import opened
from index.serving.loading import Loader
from index.serving.rollout import RETRY_MOST_S, Rollout, superseded
from index.serving.served import Loaded, Served, Use
from index.serving.shard import expected_encoders
from index.storage import version
from index.storage.location import Directory, PinnedFiles
from index.storage.manifest import Manifest
from lookalike.errors import BadArtifact, BadSettings, FailedPrecondition, Unavailable
from lookalike.v1 import index_pb2
from tests.unit.index.samples import IMAGE, by, catalogue, clustered, vectors_of

COUNT, DIM = 400, 16
LEASE_S = 30.0
RETRY_S = 5.0


def built(location: Path, seed: int) -> str:
    """A version that serves next, of vectors that depend on the seed; with codes, so that faiss has a part in it."""
    given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, DIM, seed))}
    return build(location, catalogue(COUNT), given, shards=1, seed=seed, exact_floats=100)


class Clock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Scene:
    """A shard's rollout over a real location, its clock set by hand, its looks at the location made one by one."""

    def __init__(self, location: Path, **expected: str) -> None:
        self.location = location
        self.clock = Clock()
        self.released: list[str] = []
        self.before_dropping: Callable[[str], None] = lambda name: None
        self.served = Served(self.clock, LEASE_S)
        self.loads: list[str] = []
        self.load: Callable[[str], Loaded] = Loader(
            location=Directory(location), shard=0, hold=self._hold, expected=expected
        )
        self.rollout = Rollout(
            self.served,
            wanted=lambda: version.read_current(location),
            load=self._loaded,
            clock=self.clock,
            retry_s=RETRY_S,
            leave=self._left,
        )

    def _left(self, name: str) -> None:
        self.before_dropping(name)

    def _loaded(self, name: str) -> Loaded:
        self.loads.append(name)
        return self.load(name)

    def _hold(self, manifest: Manifest, shard: int) -> PinnedFiles:
        held = Directory(self.location).pin(manifest, shard)
        return PinnedFiles(held.location, lambda: self.released.append(manifest.version))

    async def later(self, seconds: float, pinned: str = "") -> None:
        """Two looks at the location: the first may make the room that the second needs."""
        self.clock.now_s += seconds
        if pinned:
            self.served.describe(pinned)
        await self.rollout.settle()
        await self.rollout.settle()

    def told(self) -> list[str]:
        return [state.version for state in self.served.describe("").versions]


@pytest_asyncio.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    built(tmp_path, 1)
    made = Scene(tmp_path)
    await made.rollout.start()
    yield made
    made.rollout.close()


def asked(served: Served, name: str) -> index_pb2.ShardHits:
    query = index_pb2.ShardQuery(vectors=[by(IMAGE, clustered(COUNT, DIM, 1)[7])], k=5)
    with served.lease(name) as shard:
        (hits,) = shard.search([query]).results
    return hits


def mapped(location: Path, name: str) -> bool:
    return f"{location / name}/" in Path("/proc/self/maps").read_text(encoding="utf-8")


async def test_a_new_version_is_served_beside_the_old_one_and_named_first(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = built(scene.location, 2)
    await scene.later(0)
    assert scene.told() == [new, old]
    assert asked(scene.served, old).ids[0] == "p7"
    assert not asked(scene.served, new).error


async def test_the_old_version_goes_when_no_gateway_pins_it_any_more_and_its_files_are_let_go(scene: Scene) -> None:
    old = version.read_current(scene.location)
    await scene.later(0, pinned=old)
    built(scene.location, 2)
    for _ in range(5):
        await scene.later(LEASE_S - 1, pinned=old)
    assert old in scene.told()
    assert mapped(scene.location, old)
    await scene.later(LEASE_S)
    assert old not in scene.told()
    assert scene.released == [old]
    assert not mapped(scene.location, old)
    with pytest.raises(FailedPrecondition, match="this shard serves version"):
        asked(scene.served, old)


async def test_a_version_that_a_call_uses_stays_until_the_call_has_ended(scene: Scene) -> None:
    old = version.read_current(scene.location)
    built(scene.location, 2)
    with scene.served.lease(old) as shard:
        await scene.later(10 * LEASE_S)
        await scene.later(10 * LEASE_S)
        assert old in scene.told()
        assert len(shard.base.table) == COUNT
        del shard
    await scene.later(0)
    assert old not in scene.told()


async def test_a_version_that_cannot_be_left_stays_until_it_can(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(name: str) -> None:
        raise OSError(28, "No space left on device")

    old = version.read_current(scene.location)
    new = built(scene.location, 2)
    with monkeypatch.context() as patch:
        patch.setattr(scene, "before_dropping", full)
        await scene.later(0)
        await scene.later(2 * LEASE_S)
        assert scene.told() == [new, old]
        assert f"version {old} cannot be left" in caplog.text
    await scene.later(0)
    assert scene.told() == [new]


async def test_going_back_to_a_version_that_is_still_loaded_loads_nothing(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = built(scene.location, 2)
    await scene.later(0)
    version.make_current(scene.location, old)
    await scene.later(0)
    assert scene.told() == [old, new]
    assert scene.loads == [old, new]
    await scene.later(2 * LEASE_S)
    assert scene.told() == [old]


async def test_a_version_from_which_somebody_goes_back_while_it_is_loaded_is_not_served(scene: Scene) -> None:
    def overtaken(name: str) -> Loaded:
        loaded = whole(name)
        version.make_current(scene.location, old)
        return loaded

    old, whole = version.read_current(scene.location), scene.load
    new = built(scene.location, 2)
    scene.load = overtaken
    await scene.rollout.settle()
    assert (scene.told(), scene.released) == ([old], [new])
    scene.load = whole
    version.make_current(scene.location, new)
    await scene.later(0)
    assert scene.told() == [new, old]


async def test_a_third_version_waits_until_one_of_two_is_no_longer_pinned(scene: Scene) -> None:
    first = version.read_current(scene.location)
    second = built(scene.location, 2)
    await scene.later(0, pinned=first)
    third = built(scene.location, 3)
    await scene.later(1, pinned=first)
    assert scene.told() == [second, first]
    assert not scene.served.describe(first).refusal
    await scene.later(LEASE_S, pinned=first)  # Another shard has no second version: gateways stay with the first.
    assert scene.told() == [third, first]


async def test_a_damaged_version_is_refused_by_name_and_the_old_one_serves_on(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = built(scene.location, 2)
    damaged = scene.location / new / "shard-00000" / "image" / "codes"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    await scene.later(0)
    assert scene.told() == [old]
    refused = scene.served.describe("").refusal
    assert refused.startswith(f"version {new}: ")
    assert "codes: damaged: its checksum differs" in refused
    assert asked(scene.served, old).ids[0] == "p7"
    damaged.write_bytes(whole)
    await scene.later(RETRY_S)
    assert scene.told() == [new, old]
    assert not scene.served.describe("").refusal


async def test_a_version_that_is_not_there_is_refused_and_tried_again_ever_more_seldom(scene: Scene) -> None:
    (scene.location / version.CURRENT).write_text("missing\n")
    await scene.later(0)
    assert scene.served.describe("").refusal.startswith("version missing: ")
    for _ in range(int(3600 / RETRY_S)):
        await scene.later(RETRY_S)
    tries = scene.loads.count("missing")
    assert 3600 / RETRY_MOST_S < tries < 3600 / RETRY_MOST_S + 8


async def test_another_version_is_tried_at_once_whatever_became_of_the_one_before(scene: Scene) -> None:
    good = version.read_current(scene.location)
    (scene.location / version.CURRENT).write_text("missing\n")
    for _ in range(9):
        await scene.later(60, pinned=good)
    new = built(scene.location, 2)
    await scene.later(0)
    assert scene.told() == [new, good]


async def test_where_current_cannot_be_read_what_serves_serves_on(scene: Scene) -> None:
    old = version.read_current(scene.location)
    (scene.location / version.CURRENT).unlink()
    await scene.later(0)
    assert scene.told() == [old]
    assert "CURRENT: no index here" in scene.served.describe("").refusal
    version.make_current(scene.location, old)
    await scene.later(0)
    assert not scene.served.describe("").refusal


async def test_vectors_of_an_encoder_that_is_not_expected_are_refused(tmp_path: Path) -> None:
    built(tmp_path, 1)
    scene = Scene(tmp_path, image="drawn")
    await scene.rollout.start()
    other = vectors_of(clustered(COUNT, DIM, 2), encoder="another")
    new = build(tmp_path, catalogue(COUNT), {IMAGE: other}, shards=1)
    await scene.later(0)
    refused = scene.served.describe("").refusal
    assert refused == f"version {new}: {tmp_path}: its image vectors are of another, not of drawn"
    scene.rollout.close()


async def test_a_version_with_vectors_of_another_dimension_than_its_manifest_says_is_refused(scene: Scene) -> None:
    old = version.read_current(scene.location)
    new = built(scene.location, 2)
    manifest = version.read_manifest(scene.location, new)
    array = scene.location / new / "shard-00000" / "image" / "vectors.npy"
    np.save(array, np.zeros((COUNT, DIM + 1), np.float32))
    manifest.files["shard-00000/image/vectors.npy"] = version.file_entry(array)  # type: ignore[index]  # a Mapping elsewhere
    version.write_manifest(scene.location / new, manifest)
    await scene.later(0)
    assert scene.told() == [old]
    assert f"image: not {COUNT} vectors of {DIM} dimensions" in scene.served.describe("").refusal


async def test_an_error_that_nobody_expected_is_no_end_of_what_serves(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(name: str) -> Loaded:
        raise ZeroDivisionError("a bug")

    old = version.read_current(scene.location)
    new = built(scene.location, 2)
    monkeypatch.setattr(scene, "load", broken)
    await scene.later(0)
    assert (scene.told(), scene.served.describe("").refusal) == ([old], f"version {new}: a bug")
    assert "ZeroDivisionError" in caplog.text


async def test_the_files_of_a_version_that_is_not_admitted_are_let_go(scene: Scene) -> None:
    async def refusing(loaded: Loaded) -> None:
        raise BadArtifact("its changes cannot be read")

    old = version.read_current(scene.location)
    scene.rollout = Rollout(
        scene.served,
        wanted=lambda: version.read_current(scene.location),
        load=scene.load,
        clock=scene.clock,
        retry_s=RETRY_S,
        admit=refusing,
    )
    new = built(scene.location, 2)
    await scene.later(0)
    assert (scene.told(), scene.released) == ([old], [new])
    scene.rollout.close()


async def test_a_shard_that_can_serve_nothing_does_not_start(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    with pytest.raises(BadArtifact, match="no index here"):
        await scene.rollout.start()
    with pytest.raises(Unavailable, match="still loading"):
        scene.served.describe("")
    scene.rollout.close()


@pytest.mark.parametrize("expect", ["image", "image=", "sound=x", "=x"])
def test_what_is_expected_names_a_space_and_an_encoder(expect: str) -> None:
    with pytest.raises(BadSettings, match="not space=fingerprint"):
        expected_encoders(("text=y", expect))


IDLE, PINNED, CALLED = Use(0, 0.0), Use(0, 99.0), Use(1, 0.0)


@pytest.mark.parametrize(
    ("uses", "wanted", "dropped"),
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
def test_what_nobody_needs_goes_and_something_always_serves(
    uses: dict[str, Use], wanted: str, dropped: list[str]
) -> None:
    assert superseded(uses, wanted, current="b" if "b" in uses else "a", now_s=10.0) == dropped


@pytest.mark.slow
async def test_nothing_is_freed_under_a_search_however_often_versions_change(tmp_path: Path) -> None:
    names = [built(tmp_path, seed) for seed in (1, 2, 3)]
    scene = Scene(tmp_path)
    await scene.rollout.start()
    ended, failures = threading.Event(), list[BaseException]()
    searching = [threading.Thread(target=_search, args=(scene, ended.is_set, failures)) for _ in range(8)]
    for thread in searching:
        thread.start()
    try:
        for change in range(30):
            version.make_current(tmp_path, names[change % len(names)])
            await scene.later(2 * LEASE_S)
            gc.collect()
    finally:
        ended.set()
        for thread in searching:
            await asyncio.to_thread(thread.join)
    await scene.later(2 * LEASE_S)
    await scene.later(2 * LEASE_S)
    assert not failures
    assert scene.told() == [names[29 % 3]]
    assert [mapped(tmp_path, name) for name in names] == [name == names[29 % 3] for name in names]
    assert len(scene.released) == len(scene.loads) - 1
    scene.rollout.close()


def _search(scene: Scene, ended: Callable[[], bool], failures: list[BaseException]) -> None:
    """As calls do, of whichever version is served, until the end."""
    while not ended():
        for name in scene.served.uses():
            try:
                with scene.served.lease(name):
                    assert not asked(scene.served, name).error
                    assert scene.released.count(name) < scene.loads.count(name), "let go under a search"
            except FailedPrecondition:
                pass  # It went between the look and the call.
            except BaseException as error:
                failures.append(error)
                raise


def test_a_lease_is_of_the_shard_and_counts_once_however_it_ends(tmp_path: Path) -> None:
    name = built(tmp_path, 1)
    served = Served(Clock(), LEASE_S)
    served.add(Loaded(opened(tmp_path, 0)))
    with served.lease(name), served.lease(name):
        assert served.uses()[name].calls == 2
        assert served.remove(name) is None
    with pytest.raises(ZeroDivisionError), served.lease(name) as shard:
        shard.count(1 / 0)  # type: ignore[arg-type]  # not reached
    assert served.uses()[name].calls == 0
