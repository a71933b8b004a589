"""Vectors on disk, as they are mapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from index.storage import vectors
from tests.unit.index.samples import unit_vectors


@pytest.mark.parametrize("at_random", [True, False])
def test_the_kernel_reads_ahead_unless_it_is_told_that_rows_are_read_at_random(tmp_path: Path, at_random: bool) -> None:
    drawn = unit_vectors(100, 1024)
    vectors.write_vectors(tmp_path / "v.npy", [drawn], documents=100, dim=1024, rescore="float32")
    mapped = vectors.open_vectors(tmp_path / "v.npy", rescore="float32", at_random=at_random)
    assert (mapped == drawn).all()
    _, at, described = Path("/proc/self/smaps").read_text().partition(str(tmp_path / "v.npy"))
    flags = described.partition("VmFlags:")[2].partition("\n")[0].split()
    assert at
    assert ("rr" in flags) == at_random
