"""What was built from what."""

from __future__ import annotations

import os
from pathlib import Path

from lookalike.demo.build_cache import Stamps, sources, state_of


def test_a_step_is_remembered_while_its_inputs_are_the_same_and_what_it_made_is_there(tmp_path: Path) -> None:
    stamps, made = Stamps(tmp_path / "stamps"), tmp_path / "index"
    assert stamps.outcome("index", {"shards": 2}) is None
    made.mkdir()
    stamps.begin("index")
    stamps.done("index", {"shards": 2}, {"version": "a"}, made=[made])
    assert Stamps(tmp_path / "stamps").outcome("index", {"shards": 2}) == {"version": "a"}
    assert stamps.outcome("index", {"shards": 3}) is None
    assert stamps.outcome("other", {"shards": 2}) is None
    made.rmdir()
    assert stamps.outcome("index", {"shards": 2}) is None


def test_a_step_that_was_begun_and_not_ended_is_not_remembered(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path)
    stamps.done("index", {}, "first", made=[])
    stamps.begin("index")
    assert stamps.outcome("index", {}) is None


def test_a_damaged_stamp_is_none(tmp_path: Path) -> None:
    stamps = Stamps(tmp_path)
    for damaged in ("", "[]", "{", '{"inputs": {}}', '{"inputs": {}, "made": 3, "outcome": 1}', "\0"):
        (tmp_path / "index.json").write_text(damaged)
        assert stamps.outcome("index", {}) is None


def test_the_state_of_a_directory_is_that_of_its_files(tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue"
    (catalogue / "images").mkdir(parents=True)
    photo = catalogue / "images" / "a.jpg"
    photo.write_bytes(b"abc")
    states = [state_of(catalogue)]
    assert state_of(catalogue) == states[0]
    photo.write_bytes(b"abcd")
    states.append(state_of(catalogue))
    os.utime(photo, ns=(1, 1))
    states.append(state_of(catalogue))
    photo.rename(photo.with_name("b.jpg"))
    states.append(state_of(catalogue))
    (catalogue / "products.jsonl").touch()
    states.append(state_of(catalogue))
    assert len(set(states)) == 5
    assert state_of(photo.with_name("b.jpg")) == state_of(photo.with_name("b.jpg"))


def test_code_is_known_by_its_text_not_by_its_times(tmp_path: Path) -> None:
    (tmp_path / "room").mkdir()
    module = tmp_path / "room" / "noun.py"
    module.write_text("a = 1")
    before = sources(tmp_path, "room")
    os.utime(module, ns=(1, 1))
    (tmp_path / "room" / "noun.pyc").touch()
    assert sources(tmp_path, "room") == before
    module.write_text("a = 2")
    assert sources(tmp_path, "room") != before
