"""Locking a directory for one update at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.errors import OperatorError
from pipeline.update_lock import lock_directory


def test_a_second_update_in_a_locked_directory_is_refused(tmp_path: Path) -> None:
    with lock_directory(tmp_path), pytest.raises(OperatorError, match="another update"), lock_directory(tmp_path):
        pass
    with lock_directory(tmp_path):
        pass


@pytest.mark.parametrize("subdirectory", ["", "sub/directory"])
def test_if_the_directory_cannot_be_created_the_error_names_it(tmp_path: Path, subdirectory: str) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(OperatorError, match=r"file.* cannot be written"),
        lock_directory(tmp_path / "file" / subdirectory),
    ):
        pass
