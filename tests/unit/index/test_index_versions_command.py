"""`lookalike versions` and `lookalike index inspect`, over a directory and over a URL."""

from __future__ import annotations

import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from index.building import inspect, versions
from index.building.build import SpaceVectors, build
from lookalike.cli.dispatch import run
from lookalike.releases.canary import Canary
from lookalike.releases.location import open_location
from lookalike.releases.manifest import DuplicatesThreshold
from tests import stores
from tests.unit.index.samples import IMAGE, TEXT, catalogue, clustered, vectors_of

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
        spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, seed))}
        names.append(build(tmp_path, catalogue(COUNT), spaces, shards=1))
        if store is not None:
            store.publish(tmp_path, names[-1])
    return Index(str(store or tmp_path), *names)


def status(*words: str) -> int:
    return run(lambda: versions.main(words, {}))


def listed(index: Index, capsys: pytest.CaptureFixture[str]) -> dict[str, dict[str, object]]:
    assert status("list", index.where, "--json") == 0
    return {row["version"]: row for row in json.loads(capsys.readouterr().out)}


def test_versions_are_listed_with_what_they_hold_and_which_serves(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = listed(index, capsys)
    assert {name: each["current"] for name, each in rows.items()} == {index.old: False, index.new: True}
    assert rows[index.new]["products"] == COUNT
    assert rows[index.new]["recall_at_10"] == 1.0
    assert rows[index.new]["spaces"] == [{"name": "image", "dim": 8, "encoder": "drawn", "duplicates": None}]
    assert status("list", index.where) == 0
    printed = capsys.readouterr().out
    assert index.old in printed
    assert printed.count("serves") == 1


def test_letting_a_version_with_other_spaces_serve_says_what_of_changes_it_does_not_take(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    vectors = {space: vectors_of(clustered(COUNT, 8, space)) for space in (int(IMAGE), int(TEXT))}
    alone, _ = (build(tmp_path, catalogue(COUNT), {space: vectors[space]}, shards=1) for space in vectors)
    for told in ("does not take: text vectors of changes (it has no such space)", ""):  # The second time it serves.
        assert status("use", str(tmp_path), alone) == 0
        error = capsys.readouterr().err
        assert told in error
        assert bool(error) == bool(told)


def test_an_earlier_version_can_serve_again_and_the_later_one_be_dropped(
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


@pytest.mark.parametrize("command", ["use", "drop"])
def test_a_missing_version_can_be_neither_used_nor_dropped(
    index: Index, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert status(command, index.where, "0123456789abcdef") == 2
    existing = ", ".join(sorted((index.old, index.new)))
    assert f"no version 0123456789abcdef here; there are: {existing}" in capsys.readouterr().err
    assert index.current() == index.new


def test_a_damaged_version_is_listed_as_damaged_and_cannot_serve(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad, good = (build(tmp_path, catalogue(count), {}, shards=1) for count in (3, 4))
    (tmp_path / bad / "manifest.json").write_text("{")
    index = Index(str(tmp_path), bad, good)
    assert status("use", index.where, bad) == 2
    assert index.current() == good
    capsys.readouterr()
    assert "not a manifest" in str(listed(index, capsys)[bad]["damaged"])


def test_a_damaged_current_file_is_repaired_by_using_a_version(tmp_path: Path) -> None:
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


def test_listing_a_location_without_an_index_fails(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert status("list", str(tmp_path / "nothing")) == 2
    assert "no index here" in capsys.readouterr().err


def test_a_version_in_any_location_can_be_inspected_and_verified(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(lambda: inspect.main([index.where, "--version", index.old, "--verify", "--json"], {})) == 0
    manifest = json.loads(capsys.readouterr().out)
    assert manifest["version"] == index.old
    assert manifest["verified_bytes"] == sum(file["bytes"] for file in manifest["files"].values())
    assert run(lambda: inspect.main([index.where, "--verify"], {})) == 0
    assert "verified: " in capsys.readouterr().out


def test_the_score_of_duplicates_is_shown_with_what_is_known_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    threshold = DuplicatesThreshold(
        min_score=0.912, precision=0.953, recall=0.61, queries=1000, measured_by="stated groups"
    )
    spaces: dict[int, SpaceVectors] = {
        IMAGE: vectors_of(clustered(COUNT, 8, 1)),
        TEXT: vectors_of(clustered(COUNT, 8, 2)),
    }
    name = build(tmp_path, catalogue(COUNT), spaces, shards=1, duplicates={IMAGE: threshold})
    without = build(tmp_path, catalogue(COUNT), spaces, shards=1)
    assert without != name  # What FindDuplicates answers is part of a version.
    by_space = {space.name: space.duplicates for space in open_location(str(tmp_path)).read_manifest(name).spaces}
    assert by_space == {"image": threshold, "text": None}
    line = "image: duplicates from 0.912 (precision 0.953, recall 0.610, 1,000 queries by stated groups)"
    assert run(lambda: inspect.main([str(tmp_path), "--version", name], {})) == 0
    assert line in capsys.readouterr().out
    assert status("list", str(tmp_path)) == 0
    assert f"{name}, {line}" in capsys.readouterr().out


def test_a_version_is_tried_on_a_share_of_searches_until_it_is_tried_no_more(
    index: Index, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("canary", index.where) == 0
    assert "no version is tried" in capsys.readouterr().out
    assert status("canary", index.where, index.old, "--share", "0.25") == 0
    assert f"version {index.old} answers 0.25 of searches" in capsys.readouterr().out
    assert open_location(index.where).canary() == Canary(version=index.old, share=0.25)
    assert status("drop", index.where, index.old) == 2
    assert "is tried on some searches" in capsys.readouterr().err
    assert status("canary", index.where, "--off") == 0
    assert open_location(index.where).canary() is None
    assert index.current() == index.new


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["{new}"], "serves already"),
        (["{old}", "--share", "0"], "must be above 0 and at most 1"),
        (["{old}", "--share", "nan"], "must be above 0 and at most 1"),
        (["{old}", "--off"], "name no version with it"),
        (["missing"], "no version missing here"),
    ],
)
def test_what_cannot_be_tried_is_refused_and_nothing_is_changed(
    index: Index, words: list[str], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status("canary", index.where, *(word.format(old=index.old, new=index.new) for word in words)) == 2
    assert reason in capsys.readouterr().err
    assert open_location(index.where).canary() is None


def test_a_version_of_another_number_of_shards_is_not_tried(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spaces: dict[int, SpaceVectors] = {IMAGE: vectors_of(clustered(COUNT, 8, 1))}
    one, _ = (build(tmp_path, catalogue(COUNT), spaces, shards=shards) for shards in (1, 2))
    assert status("canary", str(tmp_path), one) == 2
    assert "has 1 shards, the one that serves 2" in capsys.readouterr().err
