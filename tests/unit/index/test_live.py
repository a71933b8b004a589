"""Updates of a shard: the newest revision wins, whatever comes between, and all of it is there after a restart."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from index.backends.faiss_support import use_threads
from index.building.build import build
from index.live import compaction
from index.live.live import Bounds, Live
from index.serving.loaded import LoadedShard, opened
from index.storage.attributes import MAX_DESCRIPTION_BYTES, MAX_PRODUCT_BYTES
from index.storage.version import fsync_path
from lookalike.errors import BadArtifact, OperatorError, Overloaded
from lookalike.runtime.partition import shard_of
from lookalike.v1.index_pb2 import Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import Product, Space, SpaceVector
from tests.unit.index.live_samples import BOUNDS, COUNT, NAMES, Oracle, built, drawn, live, remove, upsert
from tests.unit.index.samples import IMAGE, PRODUCT, catalogue, unit_vectors, vectors_of
from tests.unit.index.test_live_log import files_of_at_most

APPLIED, STALE, INVALID, FULL = UpdateResult.APPLIED, UpdateResult.STALE, UpdateResult.INVALID, UpdateResult.FULL


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For such small arrays more threads only wait for each other."""
    use_threads(1)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> LoadedShard:
    return built(tmp_path_factory.mktemp("index"))


def outcomes(results: list[UpdateResult]) -> list[UpdateResult.Outcome.ValueType]:
    return [result.outcome for result in results]


@pytest.mark.parametrize("seed", range(6))
def test_whatever_comes_in_whatever_order_the_state_is_what_the_newest_revisions_say(
    shard: LoadedShard, tmp_path: Path, seed: int
) -> None:
    """Compactions and restarts between, and updates while a compaction is under way."""
    random, oracle, state = np.random.default_rng(seed), Oracle.of(shard), live(shard, tmp_path)
    for _ in range(25):
        match random.integers(5):
            case 0:
                state.compact()
            case 1:
                sequence = state.sequence
                state.close()
                state = live(shard, tmp_path)
                assert state.sequence == sequence
            case _ if not state.compaction_due:
                updates = drawn(random, int(random.integers(1, 9)))
                assert outcomes(state.apply(updates)) == [oracle.apply(update) for update in updates]
        oracle.check(state)
    state.close()


@pytest.mark.parametrize("held_at", ["write", "opened"])
def test_while_a_compaction_is_under_way_everything_goes_on_and_a_crash_then_loses_nothing(
    shard: LoadedShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, held_at: str
) -> None:
    random, oracle, state = np.random.default_rng(7), Oracle.of(shard), live(shard, tmp_path / "live")
    for _ in range(2):  # The second compaction takes in what the first made.
        reached, go_on, crashed = threading.Event(), threading.Event(), tmp_path / f"crashed {_}"
        step = getattr(compaction, held_at)

        def held(*given: Any, step: Callable[..., object] = step, reached: Any = reached, go_on: Any = go_on) -> object:
            done = step(*given)
            reached.set()
            go_on.wait()
            return done

        for update in drawn(random, 20):
            state.apply([update])
            oracle.apply(update)
        with monkeypatch.context() as patch:
            patch.setattr(compaction, held_at, held)
            thread = threading.Thread(target=state.compact)
            thread.start()
            reached.wait()
        for update in drawn(random, 20):  # Of what is being compacted, and of what was, too.
            state.apply([update])
            oracle.apply(update)
            oracle.check(state)
        shutil.copytree(tmp_path / "live", crashed)
        go_on.set()
        thread.join()
        oracle.check(state)
        assert state.state().delta_rows < 40
        recovered = live(shard, crashed)
        oracle.check(recovered)
        recovered.compact()
        oracle.check(recovered)
        recovered.close()
    assert state.compactions == 2
    state.close()


def test_of_equal_revisions_the_first_stands_and_late_ones_change_nothing(shard: LoadedShard, tmp_path: Path) -> None:
    state = live(shard, tmp_path)
    given = [
        upsert("p1", 5),
        upsert("p1", 5, seed=9),
        upsert("p1", 4),
        remove("p1", 5),
        remove("p1", 6),
        upsert("p1", 5),
    ]
    assert outcomes(state.apply(given)) == [APPLIED, STALE, STALE, STALE, APPLIED, STALE]
    assert state.view.find("p1") is None
    assert outcomes(state.apply([upsert("p50", 5), upsert("p50", 6)])) == [STALE, APPLIED]  # It was built with 5.
    state.close()


def test_an_older_upsert_does_not_bring_back_what_was_removed_even_after_a_compaction(
    shard: LoadedShard, tmp_path: Path
) -> None:
    state = live(shard, tmp_path)
    state.apply([remove("never seen", 3), remove("p2", 3)])
    for _ in range(3):
        assert outcomes(state.apply([upsert("never seen", 2), upsert("p2", 3)])) == [STALE, STALE]
        state.compact()
    assert state.state().tombstones == 2
    state.close()
    state = live(shard, tmp_path)
    assert outcomes(state.apply([upsert("never seen", 2), upsert("p2", 4)])) == [STALE, APPLIED]
    state.compact()
    assert (state.state().tombstones, state.state().segment_rows, state.state().superseded_rows) == (1, 1, 1)
    state.close()


def product(**fields: Any) -> Update:
    return Update(revision=1, upsert=Upsert(product=Product(**{"id": "p1", **fields})))


def with_vectors(*vectors: tuple[Space.ValueType, bytes]) -> Update:
    given = [SpaceVector(space=space, vector=data) for space, data in vectors]
    return Update(revision=1, upsert=Upsert(product=Product(id="p1"), vectors=given))


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (Update(revision=1), "neither an upsert nor a removal"),
        (remove("p1", 0), "revision: 0 is"),
        (remove("", 1), "an id has 1..256 bytes, not 0"),
        (product(id="商" * 86), "an id has 1..256 bytes, not 258"),
        (product(price=float("nan")), "the price is not finite"),
        (product(tags=["a", " "]), "an empty tag"),
        (product(created_at=-1), "created_at is not between 1970"),
        (product(title="x" * MAX_PRODUCT_BYTES), "the product has over 12288 bytes"),
        (product(description="x" * (MAX_DESCRIPTION_BYTES + 1)), "the description has over"),
        (with_vectors((PRODUCT, bytes(16))), "no space 3 here"),
        (with_vectors((IMAGE, bytes(31))), "a vector of 31 bytes in a space of 8 dimensions"),
        (with_vectors((IMAGE, bytes(32))), "zero: it is similar to nothing"),
        (with_vectors((IMAGE, np.full(8, np.inf, "<f4").tobytes())), "not finite"),
        (with_vectors(*[(IMAGE, np.ones(8, "<f4").tobytes())] * 2), "two vectors of space 1"),
    ],
)
def test_what_is_wrong_with_an_update_is_its_own_outcome(
    shard: LoadedShard, tmp_path: Path, update: Update, reason: str
) -> None:
    state = live(shard, tmp_path)
    first, wrong, last = state.apply([upsert("p1", 1), update, upsert("p2", 1)])
    assert (first.outcome, wrong.outcome, last.outcome) == (APPLIED, INVALID, APPLIED)
    assert reason in wrong.error
    state.close()


def test_the_longest_texts_that_a_catalogue_may_have_can_be_updated(shard: LoadedShard, tmp_path: Path) -> None:
    state = live(shard, tmp_path)
    long = product(
        title="x" * (MAX_PRODUCT_BYTES - 100), description="y" * MAX_DESCRIPTION_BYTES, tags=[" b ", "a", "b"]
    )
    assert outcomes(state.apply([long])) == [APPLIED]
    state.compact()
    place = state.view.find("p1")
    assert place is not None
    assert place.description == "y" * MAX_DESCRIPTION_BYTES
    assert Product.FromString(place.product).tags == ["a", "b"]
    state.close()


def test_a_product_of_another_shard_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "index", catalogue(40), {IMAGE: vectors_of(unit_vectors(40, 8))}, shards=3)
    shard = opened(tmp_path / "index", 1)
    state = Live(shard.base, shard.manifest, 1, tmp_path / "live", BOUNDS)
    mine = next(name for name in NAMES if shard_of(name, 3) == 1)
    foreign = next(name for name in NAMES if shard_of(name, 3) == 2)
    taken, refused = state.apply([remove(mine, 1), remove(foreign, 1)])
    assert taken.outcome == APPLIED
    assert (refused.outcome, refused.error) == (INVALID, "the product belongs to shard 2 of 3, not to shard 1")
    state.close()


def test_beyond_the_room_of_the_delta_updates_are_refused_until_a_compaction(
    shard: LoadedShard, tmp_path: Path
) -> None:
    state = live(shard, tmp_path, Bounds(delta_rows=4, changes=1000))
    assert outcomes(state.apply([upsert(f"new {i}", 1) for i in range(6)])) == [APPLIED] * 4 + [FULL] * 2
    (refused,) = state.apply([remove("p1", 1)])
    assert refused.error == "4 changes wait for a compaction; try again later"
    assert len(state.view) == COUNT + 4
    assert state.compaction_due
    state.compact()
    assert not state.compaction_due
    assert outcomes(state.apply([remove("p1", 1), upsert("new 4", 1), upsert("new 4", 2)])) == [APPLIED] * 3
    state.close()


def test_beyond_the_changes_that_may_be_they_are_refused_until_another_version(
    shard: LoadedShard, tmp_path: Path
) -> None:
    state = live(shard, tmp_path, Bounds(delta_rows=64, changes=5))
    state.apply([upsert("p1", 1), remove("p2", 1), remove("none", 1)])
    state.compact()
    *applied, refused = state.apply([upsert("p3", 1), upsert("p4", 1), upsert("p5", 1)])
    assert outcomes(applied) == [APPLIED] * 2
    assert refused.error == "3 products changed since this version was built, 5 may: build another"
    state.close()


def test_a_write_that_the_disk_refuses_is_refused_whole_and_the_next_is_taken(
    shard: LoadedShard, tmp_path: Path
) -> None:
    state, oracle = live(shard, tmp_path), Oracle.of(shard)
    state.apply([upsert("p1", 1)])
    oracle.apply(upsert("p1", 1))
    with files_of_at_most(state.state().log_bytes + 40), pytest.raises(Overloaded, match="File too large"):
        state.apply([upsert("p2", 1), remove("p3", 1)])
    oracle.check(state)
    assert outcomes(state.apply([upsert("p2", 1), remove("p3", 1)])) == [APPLIED, APPLIED]
    state.close()
    for update in (upsert("p2", 1), remove("p3", 1)):
        oracle.apply(update)
    state = live(shard, tmp_path)
    oracle.check(state)
    state.close()


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_compaction_that_the_disk_refuses_changes_nothing_and_can_be_done_later(
    shard: LoadedShard, tmp_path: Path, room: int
) -> None:
    state, oracle = live(shard, tmp_path), Oracle.of(shard)
    updates = drawn(np.random.default_rng(1), 30)
    for update in updates[:15]:
        state.apply([update])
        oracle.apply(update)
    with files_of_at_most(room), pytest.raises(OSError, match="File too large"):
        state.compact()
    for update in updates[15:]:
        state.apply([update])
        oracle.apply(update)
    oracle.check(state)
    state.compact()
    state.compact()
    oracle.check(state)
    assert state.state().delta_rows == 0
    state.close()
    state = live(shard, tmp_path)
    oracle.check(state)
    state.close()


def test_where_it_is_not_known_whether_a_compaction_counts_none_of_its_files_is_touched(
    shard: LoadedShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle, state = Oracle.of(shard), live(shard, tmp_path / "live")

    def apply(updates: list[Update]) -> None:
        state.apply(updates)
        for update in updates:
            oracle.apply(update)

    def not_on_the_disk(path: Path) -> None:
        if path == tmp_path / "live" and (path / "LIVE").exists():
            raise OSError(5, "Input/output error")
        fsync_path(path)

    def killed(directory: Path, *_: Any) -> None:
        directory.mkdir()
        shutil.copytree(tmp_path / "live", tmp_path / "crashed")
        raise OSError(28, "No space left on device")

    apply([upsert("p1", 9), remove("p2", 9)])
    with monkeypatch.context() as patch:
        patch.setattr("index.storage.version.fsync_path", not_on_the_disk)
        with pytest.raises(OSError, match="Input/output error"):
            state.compact()
    apply([upsert("p3", 9)])
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "write", killed)
        with pytest.raises(OSError, match="No space left"):
            state.compact()
    oracle.check(state)
    recovered = live(shard, tmp_path / "crashed")
    oracle.check(recovered)
    state.compact()
    oracle.check(state)
    assert len([*(tmp_path / "live").glob("segment-*")]) == 1


def test_a_log_without_an_update_goes_on_after_a_restart_without_a_word(
    shard: LoadedShard, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        state = live(shard, tmp_path)
        assert not state.sequence
        state.close()
    assert not caplog.text


def test_a_directory_that_another_shard_writes_to_is_refused(shard: LoadedShard, tmp_path: Path) -> None:
    state = live(shard, tmp_path)
    with pytest.raises(OperatorError, match="another process writes here"):
        live(shard, tmp_path)
    state.close()
    live(shard, tmp_path).close()


def test_a_directory_that_cannot_be_made_is_refused_by_name(shard: LoadedShard, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="file/live: changes cannot be kept there: Not a directory"):
        live(shard, tmp_path / "file" / "live")


@pytest.mark.parametrize(
    "damaged", ["LIVE", "log-000002", "segment-000002-1/removed.arrow", "segment-000002-1/shard-00000/attributes.arrow"]
)
def test_a_damaged_file_is_refused_by_name(shard: LoadedShard, tmp_path: Path, damaged: str) -> None:
    state = live(shard, tmp_path)
    state.apply([upsert("p1", 1), remove("p2", 1)])
    state.compact()
    state.apply([upsert("p3", 1)])
    state.close()
    data = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    with pytest.raises(BadArtifact, match=damaged):
        live(shard, tmp_path)
    (tmp_path / damaged).write_bytes(data)
    live(shard, tmp_path).close()


def test_a_log_that_is_missing_is_damage(shard: LoadedShard, tmp_path: Path) -> None:
    state = live(shard, tmp_path)
    state.apply([upsert("p1", 1)])
    state.compact()
    state.close()
    (tmp_path / "log-000002").unlink()
    with pytest.raises(BadArtifact, match="log-000002: a log is missing"):
        live(shard, tmp_path)


def test_a_write_that_fails_after_it_was_logged_leaves_no_half_and_is_there_after_a_restart(
    shard: LoadedShard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, oracle = live(shard, tmp_path), Oracle.of(shard)

    def exhausted(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("index.storage.attributes.with_serialized_products", exhausted)
        with pytest.raises(MemoryError):
            state.apply([upsert("p1", 5), remove("p2", 5), upsert("new", 5)])
    oracle.check(state)
    state.apply([upsert("p3", 5), upsert("p1", 4)])
    oracle.apply(upsert("p3", 5))
    oracle.apply(upsert("p1", 4))
    oracle.check(state)
    state.close()
    state = live(shard, tmp_path)
    for update in (upsert("p1", 5), remove("p2", 5), upsert("new", 5)):
        oracle.apply(update)
    oracle.check(state)
    state.close()
