"""Vectors on disk, and how they are mapped."""

from __future__ import annotations

from pathlib import Path

import pytest

from index.storage import vectors
from tests.unit.index.samples import unit_vectors


@pytest.mark.parametrize("at_random", [True, False])
def test_the_kernel_reads_ahead_unless_access_is_random(tmp_path: Path, at_random: bool) -> None:
    written = unit_vectors(100, 1024)
    vectors.write_vectors(tmp_path / "v.npy", [written], documents=100, dim=1024, rescore="float32")
    mapped = vectors.open_vectors(tmp_path / "v.npy", rescore="float32", at_random=at_random)
    assert (mapped == written).all()
    _, entry, rest = Path("/proc/self/smaps").read_text().partition(str(tmp_path / "v.npy"))
    flags = rest.partition("VmFlags:")[2].partition("\n")[0].split()
    assert entry
    assert ("rr" in flags) == at_random
