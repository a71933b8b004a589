"""The demo's build cache."""

from __future__ import annotations

import os
from pathlib import Path

from lookalike.demo.build_cache import BuildCache, metadata_digest, source_digest


def test_a_result_is_kept_while_the_inputs_are_the_same_and_the_outputs_exist(tmp_path: Path) -> None:
    cache, output = BuildCache(tmp_path / "cache"), tmp_path / "index"
    assert cache.result("index", {"shards": 2}) is None
    output.mkdir()
    cache.invalidate("index")
    cache.store("index", {"shards": 2}, {"version": "a"}, outputs=[output])
    assert BuildCache(tmp_path / "cache").result("index", {"shards": 2}) == {"version": "a"}
    assert cache.result("index", {"shards": 3}) is None
    assert cache.result("other", {"shards": 2}) is None
    output.rmdir()
    assert cache.result("index", {"shards": 2}) is None


def test_an_interrupted_step_has_no_result(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    cache.store("index", {}, "first", outputs=[])
    cache.invalidate("index")
    assert cache.result("index", {}) is None


def test_a_damaged_entry_counts_as_missing(tmp_path: Path) -> None:
    cache = BuildCache(tmp_path)
    for damaged in ("", "[]", "{", '{"inputs": {}}', '{"inputs": {}, "outputs": 3, "result": 1}', "\0"):
        (tmp_path / "index.json").write_text(damaged)
        assert cache.result("index", {}) is None


def test_the_digest_of_a_directory_changes_with_the_name_size_and_time_of_its_files(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue"
    (catalogue / "images").mkdir(parents=True)
    photo = catalogue / "images" / "a.jpg"
    photo.write_bytes(b"abc")
    digests = [metadata_digest(catalogue)]
    assert metadata_digest(catalogue) == digests[0]
    photo.write_bytes(b"abcd")
    digests.append(metadata_digest(catalogue))
    os.utime(photo, ns=(1, 1))
    digests.append(metadata_digest(catalogue))
    photo.rename(photo.with_name("b.jpg"))
    digests.append(metadata_digest(catalogue))
    (catalogue / "products.jsonl").touch()
    digests.append(metadata_digest(catalogue))
    assert len(set(digests)) == 5
    assert metadata_digest(photo.with_name("b.jpg")) == metadata_digest(photo.with_name("b.jpg"))


def test_the_digest_of_code_depends_on_its_text_and_not_on_its_times(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    module = tmp_path / "room" / "noun.py"
    module.write_text("a = 1")
    before = source_digest(tmp_path, "room")
    os.utime(module, ns=(1, 1))
    (tmp_path / "room" / "noun.pyc").touch()
    assert source_digest(tmp_path, "room") == before
    module.write_text("a = 2")
    assert source_digest(tmp_path, "room") != before
