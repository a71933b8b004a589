"""Search among real vectors: SIFT descriptors of photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from index.building.ladder import measured
from index.kinds import codes
from index.search.space import SpaceIndex
from index.storage.manifest import IndexEntry
from lookalike.vectors import normalised
from tests.unit.index.samples import recall


@pytest.mark.data
def test_real_descriptors_are_found_with_the_recall_that_is_promised(real_data: Path) -> None:
    (file,) = [path for path in (real_data / "vectors").iterdir() if path.stat().st_size > 100_000]
    vectors = normalised(np.loadtxt(file, delimiter="\t", usecols=range(128), dtype=np.float32))
    asked, base = vectors[:300], vectors[300:]
    made = codes.trained(base, 0, 1)
    ladder = measured(made, base, 0)
    assert ladder[0].recall >= 0.95
    entry = IndexEntry(recipe=codes.recipe_of(*base.shape), nlist=made.nlist, ladder=ladder)
    space = SpaceIndex(entry=entry, vectors=base, rows=np.arange(len(base)), codes=made)
    assert recall(space, asked, 10) >= 0.94
