"""A shard that takes updates: the newest revision wins, over compactions, crashes and restarts."""

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
from index.live.live_shard import LiveLimits, LiveShard
from index.serving.shard_version import ShardVersion, open_shard
from index.storage.attributes import MAX_PRODUCT_BYTES
from lookalike.errors import BadArtifact, OperatorError, Overloaded
from lookalike.limits import MAX_TEXT_BYTES
from lookalike.releases.version import fsync_path
from lookalike.runtime.partition import shard_of
from lookalike.v1.index_pb2 import Patch, Update, UpdateResult, Upsert
from lookalike.v1.types_pb2 import Product, Space, SpaceVector
from tests.unit.index.live_samples import (
    COUNT,
    LIMITS,
    NAMES,
    Oracle,
    build_version,
    open_live,
    random_updates,
    remove,
    upsert,
)
from tests.unit.index.samples import IMAGE, PRODUCT, catalogue, unit_vectors, vectors_of
from tests.unit.index.test_write_ahead_log import limit_file_size

APPLIED, STALE, INVALID, FULL = UpdateResult.APPLIED, UpdateResult.STALE, UpdateResult.INVALID, UpdateResult.FULL


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """For such small arrays more threads only wait for each other."""
    use_threads(1)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory) -> ShardVersion:
    return build_version(tmp_path_factory.mktemp("index"))


def outcomes(results: list[UpdateResult]) -> list[UpdateResult.Outcome.ValueType]:
    return [result.outcome for result in results]


@pytest.mark.parametrize("seed", range(6))
def test_after_updates_in_any_order_the_shard_has_the_newest_revision_of_each_product(
    shard: ShardVersion, tmp_path: Path, seed: int
) -> None:
    """With compactions and restarts in between."""
    random, oracle, live = np.random.default_rng(seed), Oracle.of(shard), open_live(shard, tmp_path)
    for _ in range(25):
        match random.integers(5):
            case 0:
                live.compact()
            case 1:
                sequence = live.sequence
                live.close()
                live = open_live(shard, tmp_path)
                assert live.sequence == sequence
            case _ if not live.compaction_due:
                updates = random_updates(random, int(random.integers(1, 9)))
                assert outcomes(live.apply(updates)) == [oracle.apply(update) for update in updates]
        oracle.check(live)
    live.close()


@pytest.mark.parametrize("blocked_after", ["write", "compact"])
def test_reads_and_writes_go_on_during_a_compaction_and_a_crash_then_loses_nothing(
    shard: ShardVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocked_after: str
) -> None:
    random, oracle, live = np.random.default_rng(7), Oracle.of(shard), open_live(shard, tmp_path / "live")
    for _ in range(2):  # The second compaction takes in what the first made.
        reached, go_on, crashed = threading.Event(), threading.Event(), tmp_path / f"crashed {_}"
        step = getattr(compaction, blocked_after)

        def block(
            *arguments: Any,
            step: Callable[..., object] = step,
            reached: Any = reached,
            go_on: Any = go_on,
            **named: Any,
        ) -> object:
            result = step(*arguments, **named)
            reached.set()
            go_on.wait()
            return result

        for update in random_updates(random, 20):
            live.apply([update])
            oracle.apply(update)
        with monkeypatch.context() as patch:
            patch.setattr(compaction, blocked_after, block)
            thread = threading.Thread(target=live.compact)
            thread.start()
            assert reached.wait(60)
        for update in random_updates(random, 20):  # Some are of products that are being compacted or were.
            live.apply([update])
            oracle.apply(update)
            oracle.check(live)
        shutil.copytree(tmp_path / "live", crashed)
        go_on.set()
        thread.join()
        oracle.check(live)
        assert live.state().delta_rows < 40
        recovered = open_live(shard, crashed)
        oracle.check(recovered)
        recovered.compact()
        oracle.check(recovered)
        recovered.close()
    assert live.compactions == 2
    live.close()


def test_of_equal_revisions_the_first_wins_and_older_ones_change_nothing(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path)
    updates = [
        upsert("p1", 5),
        upsert("p1", 5, seed=9),
        upsert("p1", 4),
        remove("p1", 5),
        remove("p1", 6),
        upsert("p1", 5),
    ]
    assert outcomes(live.apply(updates)) == [APPLIED, STALE, STALE, STALE, APPLIED, STALE]
    assert live.view.find("p1") is None
    assert outcomes(live.apply([upsert("p50", 5), upsert("p50", 6)])) == [STALE, APPLIED]  # It was built with 5.
    live.close()


def test_an_older_upsert_does_not_bring_back_a_removed_product_even_after_a_compaction(
    shard: ShardVersion, tmp_path: Path
) -> None:
    live = open_live(shard, tmp_path)
    live.apply([remove("never seen", 3), remove("p2", 3)])
    for _ in range(3):
        assert outcomes(live.apply([upsert("never seen", 2), upsert("p2", 3)])) == [STALE, STALE]
        live.compact()
    assert live.state().tombstones == 2
    live.close()
    live = open_live(shard, tmp_path)
    assert outcomes(live.apply([upsert("never seen", 2), upsert("p2", 4)])) == [STALE, APPLIED]
    live.compact()
    assert (live.state().tombstones, live.state().segment_rows, live.state().superseded_rows) == (1, 1, 1)
    live.close()


def product(**fields: Any) -> Update:
    return Update(revision=2, upsert=Upsert(product=Product(**{"id": "p1", **fields})))


def with_vectors(*vectors: tuple[Space.ValueType, bytes]) -> Update:
    space_vectors = [SpaceVector(space=space, vector=data) for space, data in vectors]
    return Update(revision=2, upsert=Upsert(product=Product(id="p1"), vectors=space_vectors))


@pytest.mark.parametrize(
    ("update", "reason"),
    [
        (Update(revision=2), "neither an upsert, a patch nor a removal"),
        (Update(revision=2, patch=Patch(product=Product(id="p1"), fields=["id"])), "id: a patch can change category"),
        (remove("p1", 0), "revision: must be above 0"),
        (remove("", 1), "the id has 0 bytes, expected 1 to 256"),
        (product(id="商" * 86), "the id has 258 bytes, expected 1 to 256"),
        (product(price=float("nan")), "the price is not a finite number"),
        (product(tags=["a", " "]), "an empty tag"),
        (product(created_at=-1), "created_at is not between 1970"),
        (product(title="x" * MAX_PRODUCT_BYTES), "the product has over 12288 bytes"),
        (product(description="x" * (MAX_TEXT_BYTES + 1)), "the description has over"),
        (with_vectors((PRODUCT, bytes(16))), "this shard has no space 3"),
        (with_vectors((IMAGE, bytes(31))), "the vector has 31 bytes, expected 32 (8 dimensions)"),
        (with_vectors((IMAGE, bytes(32))), "zero: it has no direction, so it is similar to nothing"),
        (with_vectors((IMAGE, np.full(8, np.inf, "<f4").tobytes())), "not finite"),
        (with_vectors(*[(IMAGE, np.ones(8, "<f4").tobytes())] * 2), "two vectors of space 1"),
    ],
)
def test_an_invalid_update_is_refused_with_its_reason_and_others_are_applied(
    shard: ShardVersion, tmp_path: Path, update: Update, reason: str
) -> None:
    live = open_live(shard, tmp_path)
    first, wrong, last = live.apply([upsert("p1", 1), update, upsert("p2", 1)])
    assert (first.outcome, wrong.outcome, last.outcome) == (APPLIED, INVALID, APPLIED)
    assert reason in wrong.error
    live.close()


def test_a_product_with_the_longest_allowed_texts_can_be_updated(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path)
    long = product(title="x" * (MAX_PRODUCT_BYTES - 100), description="y" * MAX_TEXT_BYTES, tags=[" b ", "a", "b"])
    assert outcomes(live.apply([long])) == [APPLIED]
    live.compact()
    ref = live.view.find("p1")
    assert ref is not None
    assert ref.description == "y" * MAX_TEXT_BYTES
    assert Product.FromString(ref.product).tags == ["a", "b"]
    live.close()


def test_a_product_of_another_shard_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "index", catalogue(40), {IMAGE: vectors_of(unit_vectors(40, 8))}, shards=3)
    shard = open_shard(tmp_path / "index", 1)
    live = LiveShard(shard.base, shard.manifest, 1, tmp_path / "live", LIMITS)
    mine = next(name for name in NAMES if shard_of(name, 3) == 1)
    foreign = next(name for name in NAMES if shard_of(name, 3) == 2)
    taken, refused = live.apply([remove(mine, 1), remove(foreign, 1)])
    assert taken.outcome == APPLIED
    assert (refused.outcome, refused.error) == (INVALID, "the product belongs to shard 2 of 3, not to shard 1")
    live.close()


def test_updates_are_refused_while_the_delta_is_full_until_a_compaction(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path, LiveLimits(delta_rows=4, changes=1000))
    assert outcomes(live.apply([upsert(f"new {i}", 1) for i in range(6)])) == [APPLIED] * 4 + [FULL] * 2
    (refused,) = live.apply([remove("p1", 1)])
    assert refused.error == "4 changes are waiting for a compaction; try again later"
    assert len(live.view) == COUNT + 4
    assert live.compaction_due
    live.compact()
    assert not live.compaction_due
    assert outcomes(live.apply([remove("p1", 1), upsert("new 4", 1), upsert("new 4", 2)])) == [APPLIED] * 3
    live.close()


def test_updates_beyond_the_limit_of_changes_are_refused_until_another_version(
    shard: ShardVersion, tmp_path: Path
) -> None:
    live = open_live(shard, tmp_path, LiveLimits(delta_rows=64, changes=5))
    live.apply([upsert("p1", 1), remove("p2", 1), remove("none", 1)])
    live.compact()
    *applied, refused = live.apply([upsert("p3", 1), upsert("p4", 1), upsert("p5", 1)])
    assert outcomes(applied) == [APPLIED] * 2
    assert refused.error == "3 products have changed since this version was built, at most 5 can: build another version"
    live.close()


def test_a_write_that_fails_on_disk_applies_nothing_and_the_next_succeeds(shard: ShardVersion, tmp_path: Path) -> None:
    live, oracle = open_live(shard, tmp_path), Oracle.of(shard)
    live.apply([upsert("p1", 1)])
    oracle.apply(upsert("p1", 1))
    with limit_file_size(live.state().log_bytes + 40), pytest.raises(Overloaded, match="File too large"):
        live.apply([upsert("p2", 1), remove("p3", 1)])
    oracle.check(live)
    assert outcomes(live.apply([upsert("p2", 1), remove("p3", 1)])) == [APPLIED, APPLIED]
    live.close()
    for update in (upsert("p2", 1), remove("p3", 1)):
        oracle.apply(update)
    live = open_live(shard, tmp_path)
    oracle.check(live)
    live.close()


@pytest.mark.parametrize("room", [0, 100, 2000])
def test_a_compaction_that_fails_on_disk_changes_nothing_and_can_be_repeated(
    shard: ShardVersion, tmp_path: Path, room: int
) -> None:
    live, oracle = open_live(shard, tmp_path), Oracle.of(shard)
    updates = random_updates(np.random.default_rng(1), 30)
    for update in updates[:15]:
        live.apply([update])
        oracle.apply(update)
    with limit_file_size(room), pytest.raises(OSError, match="File too large"):
        live.compact()
    for update in updates[15:]:
        live.apply([update])
        oracle.apply(update)
    oracle.check(live)
    live.compact()
    live.compact()
    oracle.check(live)
    assert live.state().delta_rows == 0
    live.close()
    live = open_live(shard, tmp_path)
    oracle.check(live)
    live.close()


def test_files_of_a_compaction_whose_checkpoint_may_be_written_are_not_touched(
    shard: ShardVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    oracle, live = Oracle.of(shard), open_live(shard, tmp_path / "live")

    def apply(updates: list[Update]) -> None:
        live.apply(updates)
        for update in updates:
            oracle.apply(update)

    def fail_to_sync(path: Path) -> None:
        if path == tmp_path / "live" and (path / "LIVE").exists():
            raise OSError(5, "Input/output error")
        fsync_path(path)

    def crash(directory: Path, *_: Any, **__: Any) -> None:
        directory.mkdir()
        shutil.copytree(tmp_path / "live", tmp_path / "crashed")
        raise OSError(28, "No space left on device")

    apply([upsert("p1", 9), remove("p2", 9)])
    with monkeypatch.context() as patch:
        patch.setattr("lookalike.releases.version.fsync_path", fail_to_sync)
        with pytest.raises(OSError, match="Input/output error"):
            live.compact()
    apply([upsert("p3", 9)])
    with monkeypatch.context() as patch:
        patch.setattr(compaction, "write", crash)
        with pytest.raises(OSError, match="No space left"):
            live.compact()
    oracle.check(live)
    recovered = open_live(shard, tmp_path / "crashed")
    oracle.check(recovered)
    live.compact()
    oracle.check(live)
    assert len([*(tmp_path / "live").glob("segment-*")]) == 1


def test_an_empty_log_is_reopened_after_a_restart_without_a_warning(
    shard: ShardVersion, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(2):
        live = open_live(shard, tmp_path)
        assert not live.sequence
        live.close()
    assert not caplog.text


def test_a_directory_that_another_shard_has_open_is_refused(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path)
    with pytest.raises(OperatorError, match="another process writes here"):
        open_live(shard, tmp_path)
    live.close()
    open_live(shard, tmp_path).close()


def test_a_directory_that_cannot_be_created_is_refused_with_its_name(shard: ShardVersion, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OperatorError, match="file/live: cannot keep changes there: Not a directory"):
        open_live(shard, tmp_path / "file" / "live")


@pytest.mark.parametrize(
    "damaged",
    ["LIVE", "log-000002", "segment-000002-1/tombstones.arrow", "segment-000002-1/shard-00000/attributes.arrow"],
)
def test_a_damaged_file_is_refused_with_its_name(shard: ShardVersion, tmp_path: Path, damaged: str) -> None:
    live = open_live(shard, tmp_path)
    live.apply([upsert("p1", 1), remove("p2", 1)])
    live.compact()
    live.apply([upsert("p3", 1)])
    live.close()
    data = (tmp_path / damaged).read_bytes()
    (tmp_path / damaged).write_bytes(data[:30] + bytes([data[30] ^ 1]) + data[31:])
    with pytest.raises(BadArtifact, match=damaged):
        open_live(shard, tmp_path)
    (tmp_path / damaged).write_bytes(data)
    open_live(shard, tmp_path).close()


def test_a_missing_log_is_refused(shard: ShardVersion, tmp_path: Path) -> None:
    live = open_live(shard, tmp_path)
    live.apply([upsert("p1", 1)])
    live.compact()
    live.close()
    (tmp_path / "log-000002").unlink()
    with pytest.raises(BadArtifact, match="log-000002: a log is missing"):
        open_live(shard, tmp_path)


def test_a_write_that_fails_after_it_was_logged_is_applied_whole_after_a_restart(
    shard: ShardVersion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, oracle = open_live(shard, tmp_path), Oracle.of(shard)

    def run_out_of_memory(*_: object) -> None:
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr("index.storage.attributes.serialized_table", run_out_of_memory)
        with pytest.raises(MemoryError):
            live.apply([upsert("p1", 5), remove("p2", 5), upsert("new", 5)])
    oracle.check(live)
    live.apply([upsert("p3", 5), upsert("p1", 4)])
    oracle.apply(upsert("p3", 5))
    oracle.apply(upsert("p1", 4))
    oracle.check(live)
    live.close()
    live = open_live(shard, tmp_path)
    for update in (upsert("p1", 5), remove("p2", 5), upsert("new", 5)):
        oracle.apply(update)
    oracle.check(live)
    live.close()
