"""The training cache: one training at a time in a directory, and no training whose result is cached."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from encoders import artifact
from lookalike.errors import OperatorError
from pipeline.training_cache import train_once

FILES = {"fake": ("first", "second")}


def check(path: Path) -> object:
    return artifact.read_manifest(path, format_version=1, files=FILES)


def make_training(content: str, between: Callable[[], object] = lambda: None) -> Callable[[Path], str]:
    """A training that writes two files and calls `between` in between."""

    def write_files(part: Path) -> dict[str, str]:
        (part / "first").write_text(content)
        between()
        (part / "second").write_text(content)
        return {}

    return lambda staged: artifact.write_artifact(
        staged, kind="fake", format_version=1, files=FILES, write_files=write_files
    )


def fail_if_trained(staged: Path) -> str:
    raise AssertionError("trained again")


class Pause:
    """Pauses a training until the test lets it continue."""

    def __init__(self) -> None:
        self.reached, self.resume = threading.Event(), threading.Event()

    def wait(self) -> None:
        self.reached.set()
        assert self.resume.wait(10)


def test_two_trainings_at_once_leave_two_whole_artifacts(tmp_path: Path) -> None:
    pause = Pause()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(train_once, tmp_path, "a", train=make_training("a", pause.wait), check=check)
        assert pause.reached.wait(10)
        second = threads.submit(train_once, tmp_path, "b", train=make_training("b"), check=check)
        with pytest.raises(TimeoutError):
            second.result(timeout=0.2)
        pause.resume.set()
        paths = [first.result()[0], second.result()[0]]

    assert [(path / "first").read_text() + (path / "second").read_text() for path in paths] == ["aa", "bb"]
    assert train_once(tmp_path, "a", train=fail_if_trained, check=check) == (paths[0], False)


def test_a_training_that_waited_uses_the_artifact_of_the_other(tmp_path: Path) -> None:
    pause = Pause()
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(train_once, tmp_path, "a", train=make_training("a", pause.wait), check=check)
        assert pause.reached.wait(10)
        second = threads.submit(train_once, tmp_path, "a", train=fail_if_trained, check=check)
        pause.resume.set()

        assert second.result() == (first.result()[0], False)


@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("else")])
def test_a_damaged_artifact_is_trained_again(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path, _ = train_once(tmp_path, "a", train=make_training("a"), check=check)
    damage(path / "second")

    assert train_once(tmp_path, "a", train=make_training("a"), check=check) == (path, True)
    assert (path / "second").read_text() == "a"


def test_files_left_by_a_killed_training_are_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".training", ".training.part"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "words.bin").write_text("half")

    path, _ = train_once(tmp_path, "a", train=make_training("a"), check=check)

    assert sorted(file.name for file in tmp_path.iterdir()) == [".lock", path.name, "trained-a.json"]


def test_an_artifact_that_lacks_a_file_is_not_written(tmp_path: Path) -> None:
    def write_files(part: Path) -> dict[str, str]:
        (part / "first").write_text("")
        return {}

    with pytest.raises(OperatorError, match="second is missing"):
        artifact.write_artifact(tmp_path / "out", kind="fake", format_version=1, files=FILES, write_files=write_files)
    assert not any(tmp_path.iterdir())


def test_an_unwritable_directory_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match="file/out cannot be written"):
        make_training("a")(tmp_path / "file" / "out")
