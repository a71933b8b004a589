"""The feature store: every key that was added is read, the last writer wins, and what is damaged is told."""

from __future__ import annotations

import json
import resource
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.vectors import F32
from pipeline.features import part, parts
from pipeline.features.compaction import CompactionOptions
from pipeline.features.directory import STAGED
from pipeline.features.key_index import keys_of
from pipeline.features.photo_register import FetchedPhoto
from pipeline.features.previous_format import take_over_photos
from pipeline.features.store import FeatureStore, Partition, parse_partition
from pipeline.features.vectors import PART_ROWS, VectorTable

DIM = 8
IMAGES = Partition(kind="image", encoder="net-1")
AT_ONCE = CompactionOptions(grace_s=0)


def digest(number: int) -> str:
    return f"{number:032x}"


def vectors(count: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal((count, DIM), dtype=np.float32)


class Clock:
    """Microseconds that go on by one with each look; `now_us` may be set."""

    def __init__(self) -> None:
        self.now_us = 1_000_000_000

    def __call__(self) -> int:
        self.now_us += 1
        return self.now_us


class Store:
    """A store, and what it told."""

    def __init__(self, where: str | Path, clock: Clock | None = None, options: dict[str, Any] | None = None) -> None:
        self.notices: list[str] = []
        self.store = FeatureStore(where, options, notice=self.notices.append, clock=clock or parts.now_us)

    def images(self, dim: int = DIM) -> VectorTable:
        return self.store.vectors("image", encoder="net-1", dim=dim)


def part_files(directory: Path) -> list[Path]:
    return sorted((directory / IMAGES.path).glob("[!.]*.parquet"))


def test_stored_vectors_are_read_by_the_next_run(tmp_path: Path) -> None:
    stored = vectors(3)
    first = Store(tmp_path / "store").images()
    first.add([digest(1), digest(2), digest(3)], stored)
    assert digest(2) in first
    first.close()

    second = Store(tmp_path / "store").images()

    assert len(second) == 3
    assert digest(4) not in second
    gathered, missing = second.gather([digest(3), digest(1), digest(3)], tmp_path / "v.npy")
    np.testing.assert_array_equal(gathered, stored[[2, 0, 2]])
    assert isinstance(gathered, np.memmap)
    assert not len(missing)


@pytest.mark.parametrize("name", ["with space", "100%", "a::b", "カタログ", "[x]*"])
def test_a_path_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    table = Store(tmp_path / name).images()
    table.add([digest(1)], vectors(1))
    table.flush()

    assert digest(1) in Store(tmp_path / name).images()
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_reading_a_store_that_is_not_there_makes_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")

    assert len(store.images()) == 0
    assert store.store.partitions() == []
    assert not (tmp_path / "store").exists()


def test_vectors_that_are_not_in_a_part_yet_are_found(tmp_path: Path) -> None:
    table, stored = Store(tmp_path).images(), vectors(3)
    table.add([digest(1)], stored[:1])
    table.flush()
    table.add([digest(1), digest(2)], stored[1:])

    found, has_vector = table.lookup([digest(2), digest(3), digest(1)])

    assert has_vector.tolist() == [True, False, True]
    np.testing.assert_array_equal(found, [stored[2], np.zeros(DIM), stored[1]])


def test_a_full_part_is_written_at_once(tmp_path: Path) -> None:
    table = Store(tmp_path).images()
    for start in range(0, 2 * PART_ROWS + 10, 16):
        table.add([digest(start + n) for n in range(16)], vectors(16, start))

    assert len(part_files(tmp_path)) == 2
    assert len(Store(tmp_path).images()) == 2 * PART_ROWS


def test_any_reader_of_parquet_reads_a_part(tmp_path: Path) -> None:
    table, stored = Store(tmp_path).images(), vectors(2)
    table.add([digest(1), digest(2)], stored, ["lamp", "mug"])
    table.flush()
    (file,) = part_files(tmp_path)

    read = pq.read_table(file, partitioning=None)

    assert read.column_names == ["key", "written", "checksum", "product", "vector"]
    assert read["product"].to_pylist() == ["lamp", "mug"]
    assert read["written"].type == pa.timestamp("us", "UTC")
    np.testing.assert_array_equal(np.frombuffer(read["vector"][1].as_py(), "<f4"), stored[1])


def test_a_changed_array_does_not_change_what_was_added(tmp_path: Path) -> None:
    table, array = Store(tmp_path).images(), vectors(1)
    table.add([digest(1)], array)
    expected = array.copy()
    array[:] = 0

    np.testing.assert_array_equal(table.lookup([digest(1)])[0], expected)


def test_gathering_tells_the_rows_that_have_no_vector(tmp_path: Path) -> None:
    table = Store(tmp_path).images()
    table.add([digest(2)], vectors(1))

    gathered, missing = table.gather([digest(1), digest(2), digest(3)], tmp_path / "v.npy")

    assert missing.tolist() == [0, 2]
    assert not gathered[[0, 2]].any()


def test_rows_far_apart_and_side_by_side_are_read_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "_SCRATCH_BYTES", 7 * 4 * DIM)
    monkeypatch.setattr(parts, "_MAX_GAP_BYTES", 2 * 4 * DIM)
    table, stored = Store(tmp_path).images(), vectors(500)
    table.add([digest(n) for n in range(500)], stored)
    table.flush()
    rng = np.random.default_rng(1)
    for count in (1, 2, 6, 7, 8, 50, 500):
        wanted = rng.integers(0, 500, count)
        for order in (wanted, np.sort(wanted), np.arange(count)):
            found, has_vector = table.lookup([digest(n) for n in order.tolist()])
            assert has_vector.all()
            np.testing.assert_array_equal(found, stored[order])


def test_what_other_writers_add_is_found_after_a_refresh(tmp_path: Path) -> None:
    reader, writer = Store(tmp_path).images(), Store(tmp_path).images()
    writer.add([digest(1)], vectors(1))
    writer.flush()
    assert digest(1) not in reader

    reader.refresh()

    assert digest(1) in reader


def test_a_clock_that_goes_backwards_makes_no_row_older(tmp_path: Path) -> None:
    clock = Clock()
    first = Store(tmp_path, clock).images()
    first.add([digest(1)], vectors(1, 1))
    first.flush()
    clock.now_us = 5
    second = Store(tmp_path, clock).images()
    second.add([digest(1)], vectors(1, 2))
    second.flush()
    second.add([digest(1)], vectors(1, 3))
    second.flush()

    np.testing.assert_array_equal(Store(tmp_path).images().lookup([digest(1)])[0], vectors(1, 3))


@pytest.mark.parametrize("kept_bytes", [0, 3, 100, -20, -1])
def test_a_torn_part_is_ignored_and_told_and_its_vectors_made_again(tmp_path: Path, kept_bytes: int) -> None:
    table = Store(tmp_path).images()
    for number in (1, 2):
        table.add([digest(number)], vectors(1, number))
        table.flush()
    torn = part_files(tmp_path)[0]
    torn.write_bytes(torn.read_bytes()[:kept_bytes])
    store = Store(tmp_path)

    again = store.images()

    assert digest(1) not in again
    assert digest(2) in again
    (notice,) = store.notices
    assert notice.startswith(f"{tmp_path}/{IMAGES.path}/{torn.name}: ignored, damaged: ")
    again.refresh()
    assert len(store.notices) == 1
    again.add([digest(1)], vectors(1, 3))
    again.flush()
    np.testing.assert_array_equal(Store(tmp_path).images().lookup([digest(1)])[0], vectors(1, 3))
    assert store.store.status(IMAGES).unusable.keys() == {torn.name}


def test_a_damaged_byte_anywhere_in_a_part_gives_no_wrong_vector(tmp_path: Path) -> None:
    table, stored = Store(tmp_path).images(), vectors(5)
    table.add([digest(n) for n in range(5)], stored)
    table.flush()
    (file,) = part_files(tmp_path)
    data = file.read_bytes()
    for position in range(0, len(data), 3):
        file.write_bytes(data[:position] + bytes([data[position] ^ 0x55]) + data[position + 1 :])
        try:
            found, has_vector = Store(tmp_path).images().lookup([digest(n) for n in range(5)])
        except BadArtifact:
            continue  # The damage made it another version of the schema.
        np.testing.assert_array_equal(found[has_vector], stored[has_vector])


def test_a_damaged_vector_is_told_and_its_neighbours_are_read(tmp_path: Path) -> None:
    table, stored = Store(tmp_path).images(), vectors(5)
    table.add([digest(n) for n in range(5)], stored)
    table.flush()
    (file,) = part_files(tmp_path)
    data = file.read_bytes()
    file.write_bytes(data.replace(stored[2].tobytes(), stored[2].tobytes()[:-1] + b"\x77"))
    store = Store(tmp_path)
    again = store.images()

    gathered, missing = again.gather([digest(n) for n in range(5)], tmp_path / "v.npy")

    assert missing.tolist() == [2]
    np.testing.assert_array_equal(gathered[[0, 1, 3, 4]], stored[[0, 1, 3, 4]])
    assert store.notices == [f"{tmp_path}/{IMAGES.path}/{file.name}: 1 damaged vectors ignored"]
    assert digest(2) not in again
    again.add([digest(2)], stored[2:3])
    assert again.read([digest(2)], gathered, missing).tolist() == []
    np.testing.assert_array_equal(gathered, stored)


def test_foreign_files_are_ignored_and_told(tmp_path: Path) -> None:
    directory = tmp_path / IMAGES.path
    directory.mkdir(parents=True)
    (directory / "notes.txt").write_text("hello")
    foreign = f"{5:016d}-{'a' * 32}.parquet"
    pq.write_table(pa.table({"key": [b"1"]}), directory / foreign)
    store = Store(tmp_path)

    assert len(store.images()) == 0
    assert store.notices == [
        f"{directory}/{foreign}: ignored, not written by Lookalike",
        f"{directory}/notes.txt: ignored, not the name of a part",
    ]


def test_vectors_of_another_dimension_or_kind_are_ignored_and_told(tmp_path: Path) -> None:
    table = Store(tmp_path).images()
    table.add([digest(1)], vectors(1))
    table.flush()
    other = Store(tmp_path)

    assert len(other.images(16)) == 0
    assert "other columns than those of image of 16 dimensions" in other.notices[0]
    text = tmp_path / Partition(kind="text", encoder="net-1").path
    shutil.copytree(tmp_path / IMAGES.path, text)
    assert len(other.store.vectors("text", encoder="net-1", dim=DIM)) == 0


def test_a_part_of_another_version_of_the_schema_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = Store(tmp_path).images()
    table.add([digest(1)], vectors(1))
    table.flush()
    (file,) = part_files(tmp_path)
    monkeypatch.setattr(part, "SCHEMA_VERSION", 2)

    with pytest.raises(BadArtifact, match=f"{file.name}: has version 1 of the schema of features, this .* version 2"):
        Store(tmp_path).images()


@pytest.fixture
def limited_file_size() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_an_error_that_names_the_part_and_nothing_half_written_is_read(
    tmp_path: Path, limited_file_size: None
) -> None:
    table, stored = Store(tmp_path).images(), vectors(1000)
    table.add([digest(n) for n in range(1000)], stored)

    with pytest.raises(OperatorError, match=rf"{tmp_path}/kind=image/encoder=net-1/.*\.parquet: File too large"):
        table.flush()

    assert [*(tmp_path / IMAGES.path).iterdir()] == []
    assert len(Store(tmp_path).images()) == 0
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.getrlimit(resource.RLIMIT_FSIZE)[1],) * 2)
    table.flush()  # There is room again: nothing that was added is lost.
    np.testing.assert_array_equal(Store(tmp_path).images().lookup([digest(n) for n in range(1000)])[0], stored)


def test_a_directory_that_cannot_be_written_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("a file")
    table = Store(tmp_path / "other").images()
    table.add([digest(1)], vectors(1))
    (tmp_path / "other").write_text("a file")

    with pytest.raises(OperatorError, match=r"other/kind=image/encoder=net-1/.*\.parquet: "):
        table.flush()


def test_compaction_merges_small_parts_and_removes_them_after_the_time_of_grace(tmp_path: Path) -> None:
    store, stored = Store(tmp_path), vectors(10)
    table = store.images()
    for number in range(10):
        table.add([digest(number)], stored[number : number + 1], [f"p{number}"])
        table.flush()
    before = store.images()

    report = store.store.compact(IMAGES, CompactionOptions())

    assert (report.merged_parts, report.written_parts, report.removed_files) == (10, 1, 0)
    assert len(part_files(tmp_path)) == 11
    status = store.store.status(IMAGES)
    assert (status.rows, status.parts, status.replaced_parts) == (10, 1, 10)
    assert store.store.compact(IMAGES, AT_ONCE).removed_files == 10
    (file,) = part_files(tmp_path)
    assert sorted(pq.read_table(file, partitioning=None)["product"].to_pylist()) == [f"p{n}" for n in range(10)]
    for reader in (store.images(), before):  # One that was open before finds the files gone, and looks again.
        found, has_vector = reader.lookup([digest(n) for n in range(10)])
        assert has_vector.all()
        np.testing.assert_array_equal(found, stored)
    assert store.store.compact(IMAGES, AT_ONCE).written_parts == 0


def test_compaction_drops_superseded_and_old_unused_rows(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    table = store.images()
    table.add([digest(n) for n in range(4)], vectors(4, 1))
    table.flush()
    table.add([digest(0)], vectors(1, 2))
    table.flush()
    clock.now_us += 10_000_000
    table.add([digest(9)], vectors(1, 3))
    table.flush()
    live = keys_of([digest(0), digest(1)])

    report = store.store.compact(IMAGES, CompactionOptions(live=live, min_age_s=5, grace_s=0))

    assert (report.superseded_rows, report.unused_rows) == (1, 2)
    again = store.images()
    assert again.contains([digest(n) for n in (0, 1, 2, 3, 9)]).tolist() == [True, True, False, False, True]
    np.testing.assert_array_equal(again.lookup([digest(0)])[0], vectors(1, 2))


def test_large_parts_are_written_again_only_for_their_waste(tmp_path: Path) -> None:
    store = Store(tmp_path)
    table = store.images()
    for start in (0, 100):
        table.add([digest(start + n) for n in range(100)], vectors(100, start))
        table.flush()
    options = CompactionOptions(part_bytes=12_000, grace_s=0)
    assert store.store.compact(IMAGES, options).merged_parts == 0

    table.add([digest(n) for n in range(30)], vectors(30, 5))
    table.flush()
    report = store.store.compact(IMAGES, options)

    assert (report.merged_parts, report.superseded_rows) == (2, 30)
    assert len(store.images()) == 200


def test_compaction_bounds_the_size_of_parts(tmp_path: Path) -> None:
    store = Store(tmp_path)
    table = store.images()
    for start in range(0, 1000, 50):
        table.add([digest(start + n) for n in range(50)], vectors(50, start))
        table.flush()

    report = store.store.compact(IMAGES, CompactionOptions(part_bytes=20_000, grace_s=0))
    store.store.compact(IMAGES, CompactionOptions(part_bytes=20_000, grace_s=0))

    assert report.merged_parts == 20
    assert all(10_000 < file.stat().st_size < 30_000 for file in part_files(tmp_path))
    assert len(store.images()) == 1000


def test_a_part_whose_rows_are_all_dropped_goes_too(tmp_path: Path) -> None:
    clock = Clock()
    store = Store(tmp_path, clock)
    table = store.images()
    table.add([digest(1)], vectors(1))
    table.flush()
    clock.now_us += 10_000_000
    nothing = CompactionOptions(live=keys_of([]), min_age_s=0, grace_s=0)

    for _ in range(3):
        store.store.compact(IMAGES, nothing)

    assert part_files(tmp_path) == []


def test_what_a_killed_writer_left_is_ignored_and_removed_by_age(tmp_path: Path) -> None:
    store = Store(tmp_path)
    table = store.images()
    table.add([digest(1)], vectors(1))
    table.flush()
    left = tmp_path / IMAGES.path / f"{STAGED}{'0' * 16}-{'b' * 32}.parquet"
    left.write_bytes(b"PAR1 half")

    assert store.store.compact(IMAGES, CompactionOptions()).removed_files == 0
    assert left.exists()
    assert store.store.compact(IMAGES, AT_ONCE).removed_files == 1
    assert not left.exists()
    assert store.notices == []


class TwoWriters(RuleBasedStateMachine):
    """Two writers, a reader and compactions, in any order, against a dictionary."""

    keys = st.lists(st.integers(0, 12), min_size=1, max_size=6, unique=True)

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.where = f"memory://{uuid4().hex}"
        self.written: dict[int, F32] = {}
        self.flushed: dict[int, tuple[int, F32]] = {}  # By the order of what was added.
        self.pending: list[dict[int, tuple[int, F32]]] = [{}, {}]
        self.count = 0
        self.writers = [self.open(), self.open()]
        self.reader = self.open()

    def open(self) -> VectorTable:
        return Store(self.where, self.clock).images()

    @rule(writer=st.integers(0, 1), numbers=keys)
    def add(self, writer: int, numbers: list[int]) -> None:
        self.count += 1
        added = vectors(len(numbers), self.count)
        self.writers[writer].add([digest(n) for n in numbers], added)
        self.pending[writer] |= {n: (self.count, added[i]) for i, n in enumerate(numbers)}

    @rule(writer=st.integers(0, 1))
    def flush(self, writer: int) -> None:
        self.writers[writer].flush()
        for number, added in self.pending[writer].items():
            if number not in self.flushed or self.flushed[number][0] < added[0]:
                self.flushed[number] = added
        self.pending[writer] = {}

    @rule(writer=st.integers(0, 1))
    def restart(self, writer: int) -> None:
        self.writers[writer], self.pending[writer] = self.open(), {}

    @rule(grace_s=st.sampled_from([0, 3600]), part_bytes=st.sampled_from([100, 4000, 1 << 20]))
    def compact(self, grace_s: float, part_bytes: int) -> None:
        options = CompactionOptions(grace_s=grace_s, part_bytes=part_bytes)
        Store(self.where, self.clock).store.compact(IMAGES, options)

    @rule(numbers=keys)
    def drop_unused(self, numbers: list[int]) -> None:
        live = keys_of([digest(n) for n in numbers])
        options = CompactionOptions(live=live, min_age_s=0, grace_s=0)
        Store(self.where, self.clock).store.compact(IMAGES, options)
        self.flushed = {n: added for n, added in self.flushed.items() if n in numbers}

    @rule()
    def refresh(self) -> None:
        self.reader.refresh()

    @invariant()
    def readers_find_what_was_written_last(self) -> None:
        numbers = sorted(self.flushed)
        new = self.open()
        self.reader.refresh()
        assert len(new) == len(numbers)
        for reader in (new, self.reader):
            found, has_vector = reader.lookup([digest(n) for n in numbers])
            assert has_vector.all()
            for row, number in enumerate(numbers):
                np.testing.assert_array_equal(found[row], self.flushed[number][1])
        for writer, pending in zip(self.writers, self.pending, strict=True):
            found, has_vector = writer.lookup([digest(n) for n in pending])
            assert has_vector.all()
            np.testing.assert_array_equal(found, np.array([added for _, added in pending.values()]).reshape(-1, DIM))


TwoWriters.TestCase.settings = settings(
    max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
test_any_interleaving_of_writers_compaction_and_reader_keeps_every_key = TwoWriters.TestCase


def test_threads_read_add_and_compact_at_once(tmp_path: Path) -> None:
    store, stored = Store(tmp_path), vectors(400)
    table, errors, done = store.images(), list[BaseException](), threading.Event()

    def run(work: Any) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    def read() -> None:
        reader = store.images()
        seen = np.zeros(400, dtype=bool)
        while not done.is_set():
            reader.refresh()
            found, has_vector = reader.lookup([digest(n) for n in range(400)])
            assert (has_vector | ~seen).all()
            np.testing.assert_array_equal(found[has_vector], stored[has_vector])
            seen = has_vector

    def compact() -> None:
        while not done.is_set():
            store.store.compact(IMAGES, CompactionOptions())

    threads = [threading.Thread(target=run, args=(work,)) for work in (read, compact)]
    for thread in threads:
        thread.start()
    for start in range(0, 400, 8):
        table.add([digest(start + n) for n in range(8)], stored[start : start + 8])
        table.flush()
    done.set()
    for thread in threads:
        thread.join()

    assert errors == []
    assert store.images().lookup([digest(n) for n in range(400)])[1].all()


def test_the_register_knows_a_photo_as_it_was_fetched_last(tmp_path: Path) -> None:
    store = Store(tmp_path).store
    first = FetchedPhoto(source="https://shop/1.jpg", digest=digest(1), etag='"a"', bytes=10, fetched_us=5, product="p")
    other = FetchedPhoto(source="/photos/2.jpg", digest=digest(2), last_modified="Mon, 01 Jan 2024 00:00:00 GMT")
    changed = FetchedPhoto(source="https://shop/1.jpg", digest=digest(3), etag='"b"', bytes=11, fetched_us=6)
    register = store.photos()
    register.add([first, other])
    register.flush()
    assert store.photos().lookup(["https://shop/1.jpg", "nowhere"]) == {"https://shop/1.jpg": first}

    register.add([changed])
    assert register.lookup(["https://shop/1.jpg"]) == {"https://shop/1.jpg": changed}
    register.close()
    store.compact(Partition(kind="photos"), AT_ONCE)
    store.compact(Partition(kind="photos"), AT_ONCE)

    assert store.photos().lookup([other.source, first.source]) == {other.source: other, first.source: changed}
    assert store.status(Partition(kind="photos")).rows == 2


def test_the_register_finds_every_one_of_many(tmp_path: Path) -> None:
    register = Store(tmp_path).store.photos()
    photos = [FetchedPhoto(source=f"https://shop/{n}", digest=digest(n)) for n in range(3000)]
    for start in range(0, 3000, 700):
        register.add(photos[start : start + 700])
    register.close()

    known = Store(tmp_path).store.photos()

    assert known.lookup([photo.source for photo in photos]) == {photo.source: photo for photo in photos}
    wanted = photos[2999::-311]
    assert known.lookup([photo.source for photo in wanted]) == {photo.source: photo for photo in wanted}


def test_the_names_of_encoders_are_no_paths(tmp_path: Path) -> None:
    store = Store(tmp_path / "store").store
    for encoder in ("../../outside", "a/b", "..", "net:1 %"):
        table = store.vectors("image", encoder=encoder, dim=DIM)
        table.add([digest(1)], vectors(1))
        table.flush()
        assert parse_partition(f"image/{encoder}").encoder == encoder

    assert [path.name for path in tmp_path.iterdir()] == ["store"]
    assert {each.encoder for each in store.partitions()} == {"../../outside", "a/b", "..", "net:1 %"}
    store.drop(Partition(kind="image", encoder=".."))
    assert len(store.partitions()) == 3


@pytest.mark.parametrize("text", ["", "image", "image/", "photos/x", "video/x"])
def test_what_is_not_the_name_of_a_partition_is_refused(text: str) -> None:
    with pytest.raises(BadSettings, match="expected image/ENCODER"):
        parse_partition(text)


def test_photos_encoded_by_an_earlier_version_are_taken_over_once(tmp_path: Path) -> None:
    stored, old = vectors(5), tmp_path / "image" / "net-1"
    old.mkdir(parents=True)
    data = pa.FixedSizeBinaryArray.from_buffers(pa.binary(4 * DIM), 5, [None, pa.py_buffer(stored.reshape(-1))])
    keys = pa.array([bytes.fromhex(digest(n)) for n in range(5)], pa.binary(16))
    pq.write_table(pa.table({"digest": keys, "vector": data}), old / "part-000000.parquet")
    (old / "part-000001.parquet").write_bytes(b"torn")
    store = Store(tmp_path)

    assert take_over_photos(store.store.root, "net-1", store.images(), store.notices.append) == 5
    assert take_over_photos(store.store.root, "net-1", store.images(), store.notices.append) == 0

    np.testing.assert_array_equal(Store(tmp_path).images().lookup([digest(n) for n in range(5)])[0], stored)
    assert any("part-000001.parquet: ignored, damaged" in notice for notice in store.notices)
    assert store.store.partitions() == [IMAGES]


def test_the_metadata_of_a_part_says_its_version(tmp_path: Path) -> None:
    table = Store(tmp_path).images()
    table.add([digest(1)], vectors(1))
    table.flush()
    (file,) = part_files(tmp_path)

    about = json.loads(pq.ParquetFile(file).metadata.metadata[b"lookalike.features"])

    assert {"schema_version": 1, "kind": "image", "dim": DIM, "replaces": []}.items() <= about.items()
