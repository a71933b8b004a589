"""What tests share is made by the first that needs it."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.made_once import make_once


def test_a_directory_is_made_by_one_of_those_that_need_it_and_is_complete_for_all(tmp_path: Path) -> None:
    made = []

    def make(folder: Path) -> None:
        folder.mkdir()
        made.append(folder)
        (folder / "file").write_text("all of it")

    def read(_: int) -> str:
        return (make_once(tmp_path / "shared", make) / "file").read_text()

    with ThreadPoolExecutor(4) as threads:
        assert [*threads.map(read, range(4))] == ["all of it"] * 4
    assert len(made) == 1
