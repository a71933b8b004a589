"""`lookalike versions` and `lookalike index inspect`, over a directory and over a URL."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from index.building import inspect, versions
from index.building.build import SpaceVectors, build
from index.storage.location import open_location
from lookalike.cli.dispatch import run
from tests import stores
from tests.unit.index.samples import IMAGE, catalogue, clustered, vectors_of

COUNT = 60


@dataclass
class Index:
    where: str
    old: str
    new: str

    def current(self) -> str:
        return open_location(self.where).current()


@pytest.fixture(params=["directory", "URL"])
def index(request: pytest.FixtureRequest, tmp_path: Path) -> Index:
    store = stores.in_memory() if request.param == "URL" else None
    names = []
    for seed in (1, 2):
        given: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, seed))}
        names.append(build(tmp_path, catalogue(COUNT), given, shards=1))
        if store is not None:
            store.publish(tmp_path, names[-1])
    return Index(str(store or tmp_path), *names)


def status(*words: str) -> int:
    return run(lambda: versions.main(words, {}))


def listed(index: Index, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert status("list", index.where, "--json") == 0
    return {told["version"]: told for told in json.loads(capsys.readouterr().out)}


def test_versions_are_listed_with_what_they_hold_and_which_serves(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    told = listed(index, capsys)
    assert {name: each["current"] for name, each in told.items()} == {index.old: False, index.new: True}
    assert told[index.new]["products"] == COUNT
    assert told[index.new]["recall_at_10"] == 1.0
    assert told[index.new]["spaces"] == [{"name": "image", "dim": 8, "encoder": "drawn"}]
    assert status("list", index.where) == 0
    shown = capsys.readouterr().out
    assert index.old in shown
    assert shown.count("serves") == 1


def test_one_goes_back_to_an_earlier_version_and_then_drops_the_later_one(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("use", index.where, index.old) == 0
    assert f"version {index.old} serves; before, it was {index.new}" in capsys.readouterr().out
    assert index.current() == index.old
    assert status("drop", index.where, index.new) == 0
    capsys.readouterr()
    assert [*listed(index, capsys)] == [index.old]


def test_the_version_that_serves_is_not_dropped(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("drop", index.where, index.new) == 2
    assert f"version {index.new} serves" in capsys.readouterr().err
    assert index.new in listed(index, capsys)


@pytest.mark.parametrize("step", ["use", "drop"])
def test_a_version_that_is_not_here_is_neither_used_nor_dropped(
    index: Index, capsys: pytest.CaptureFixture[str], step: str
) -> None:
    assert status(step, index.where, "0123456789abcdef") == 2
    there = ", ".join(sorted((index.old, index.new)))
    assert f"no version 0123456789abcdef here; there are: {there}" in capsys.readouterr().err
    assert index.current() == index.new


def test_a_damaged_version_is_listed_as_such_and_not_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad, good = (build(tmp_path, catalogue(count), {}, shards=1) for count in (3, 4))
    (tmp_path / bad / "manifest.json").write_text("{")
    index = Index(str(tmp_path), bad, good)
    assert status("use", index.where, bad) == 2
    assert index.current() == good
    capsys.readouterr()
    assert "not a manifest" in str(listed(index, capsys)[bad]["damaged"])


def test_a_damaged_current_is_mended_by_using_a_version(tmp_path: Path) -> None:
    name = build(tmp_path, catalogue(3), {}, shards=1)
    (tmp_path / "CURRENT").write_text("../elsewhere")
    assert status("use", str(tmp_path), name) == 0
    assert open_location(str(tmp_path)).current() == name


def test_nothing_is_dropped_while_a_build_is_under_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, _ = (build(tmp_path, catalogue(count), {}, shards=1) for count in (3, 4))
    with (tmp_path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert status("drop", str(tmp_path), old) == 2
        assert status("use", str(tmp_path), old) == 0  # Going back waits for nothing.
    assert "another build is under way" in capsys.readouterr().err


def test_a_place_without_an_index_has_no_versions_to_list(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("list", str(tmp_path / "nothing")) == 2
    assert "no index here" in capsys.readouterr().err


def test_a_version_is_inspected_and_verified_wherever_it_is(index: Index, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(lambda: inspect.main([index.where, "--version", index.old, "--verify", "--json"], {})) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["version"] == index.old
    assert told["verified_bytes"] == sum(file["bytes"] for file in told["files"].values())
    assert run(lambda: inspect.main([index.where, "--verify"], {})) == 0
    assert "verified: " in capsys.readouterr().out
