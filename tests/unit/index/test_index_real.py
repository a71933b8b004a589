"""Search among real vectors: SIFT descriptors of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.vectors import normalised
from tests.unit.index.samples import build_space, recall


@pytest.mark.data
def test_recall_on_real_descriptors_reaches_the_target(real_data: Path) -> None:
    (file,) = [path for path in (real_data / "vectors").iterdir() if path.stat().st_size > 100_000]
    vectors = normalised(np.loadtxt(file, delimiter="\t", usecols=range(128), dtype=np.float32))
    queries, base = vectors[:300], vectors[300:]
    space = build_space(base)
    assert space.entry.operating_points[0].recall >= 0.95
    assert recall(space, queries, 10) >= 0.94
