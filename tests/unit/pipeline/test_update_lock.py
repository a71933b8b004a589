"""A folder for one process at a time."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.errors import OperatorError
from pipeline.update_lock import locked


def test_one_update_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(OperatorError, match="another update"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("below", ["", "in/it"])
def test_a_file_where_the_folder_should_be_is_named(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OperatorError, match=r"file.* cannot be written"), locked(tmp_path / "file" / below):
        pass
