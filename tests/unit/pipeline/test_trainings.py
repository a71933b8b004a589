"""Trainings that share a folder, one after the other whatever comes between them."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from encoders import artifact
from lookalike.errors import OperatorError
from pipeline.trainings import once

FILES = {"made": ("first", "second")}


def check(path: Path) -> object:
    return artifact.read_manifest(path, format_version=1, files=FILES)


def training(content: str, between: Callable[[], object] = lambda: None) -> Callable[[Path], str]:
    """Writes two files; between them `between` is called."""

    def fill(part: Path) -> dict[str, str]:
        (part / "first").write_text(content)
        between()
        (part / "second").write_text(content)
        return {}

    return lambda staged: artifact.write_artifact(staged, kind="made", format_version=1, files=FILES, fill=fill)


def never(staged: Path) -> str:
    raise AssertionError("trained again")


class Held:
    """A training that has begun, and goes on when it may."""

    def __init__(self) -> None:
        self.begun, self.go_on = threading.Event(), threading.Event()

    def pause(self) -> None:
        self.begun.set()
        assert self.go_on.wait(10)


def test_two_trainings_at_once_leave_two_whole_artifacts(tmp_path: Path) -> None:
    held = Held()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(once, tmp_path, "a", train=training("a", held.pause), check=check)
        assert held.begun.wait(10)
        second = threads.submit(once, tmp_path, "b", train=training("b"), check=check)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        held.go_on.set()
        paths = [first.result()[0], second.result()[0]]

    assert [(path / "first").read_text() + (path / "second").read_text() for path in paths] == ["aa", "bb"]
    assert once(tmp_path, "a", train=never, check=check) == (paths[0], False)


def test_what_another_trained_meanwhile_is_not_trained_again(tmp_path: Path) -> None:
    held = Held()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(once, tmp_path, "a", train=training("a", held.pause), check=check)
        assert held.begun.wait(10)
        second = threads.submit(once, tmp_path, "a", train=never, check=check)
        held.go_on.set()

        assert second.result() == (first.result()[0], False)


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("else")])
def test_an_artifact_that_is_not_whole_is_trained_anew(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path, _ = once(tmp_path, "a", train=training("a"), check=check)
    damage(path / "second")

    assert once(tmp_path, "a", train=training("a"), check=check) == (path, True)
    assert (path / "second").read_text() == "a"


def test_what_a_killed_training_left_is_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".training", ".training.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.bin").write_text("half")

    path, _ = once(tmp_path, "a", train=training("a"), check=check)

    assert sorted(each.name for each in tmp_path.iterdir()) == [".lock", path.name, "trained-a.json"]


def test_an_artifact_without_a_file_of_its_kind_is_not_written(tmp_path: Path) -> None:
    def fill(part: Path) -> dict[str, str]:
        (part / "first").write_text("")
        return {}

    with pytest.raises(OperatorError, match="second is missing"):
        artifact.write_artifact(tmp_path / "out", kind="made", format_version=1, files=FILES, fill=fill)
    assert not any(tmp_path.iterdir())


def test_where_nothing_can_be_written_it_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="file/out cannot be written"):
        training("a")(tmp_path / "file" / "out")
