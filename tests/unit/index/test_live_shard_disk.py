"""A shard whose disk is full, by a limit on the size of files."""

from __future__ import annotations

from pathlib import Path

import pytest

from lookalike.errors import Overloaded, public_message
from tests.unit.index.live_samples import build_version, open_live, upsert
from tests.unit.index.test_write_ahead_log import limit_file_size


def test_a_full_disk_is_told_to_callers_without_the_words_of_the_system(tmp_path: Path) -> None:
    live = open_live(build_version(tmp_path / "index"), tmp_path / "live")
    with limit_file_size(64), pytest.raises(Overloaded, match="File too large") as refused:
        live.apply([upsert("p1", 100)])
    assert public_message(refused.value) == "the disk takes no update"
    live.close()
