"""The feature store: each vector is stored once, in parts written atomically."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import BadArtifact
from lookalike.vectors import F32
from pipeline.feature_store import PART_ROWS, FeatureStore


def digest(number: int) -> str:
    return f"{number:032x}"


def vectors(count: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal((count, 8), dtype=np.float32)


def test_stored_vectors_are_read_by_the_next_run(tmp_path: Path) -> None:
    stored = vectors(3)
    first = FeatureStore(tmp_path / "store", 8)
    first.add([digest(1), digest(2), digest(3)], stored)
    assert digest(2) in first
    first.flush()

    second = FeatureStore(tmp_path / "store", 8)

    assert len(second) == 3
    assert digest(4) not in second
    gathered = second.gather([digest(3), digest(1), digest(3)], tmp_path / "v.npy")
    np.testing.assert_array_equal(gathered, stored[[2, 0, 2]])
    assert isinstance(gathered, np.memmap)


def test_full_parts_are_written_and_numbered_after_existing_ones(tmp_path: Path) -> None:
    first = FeatureStore(tmp_path, 8)
    for start in range(0, 2 * PART_ROWS + 10, 16):
        first.add([digest(start + n) for n in range(16)], vectors(16, start))
    interrupted = FeatureStore(tmp_path, 8)
    assert len(interrupted) == 2 * PART_ROWS

    interrupted.add([digest(10**6)], vectors(1))
    interrupted.flush()

    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [f"part-{n:06d}.parquet" for n in range(3)]
    assert len(FeatureStore(tmp_path, 8)) == 2 * PART_ROWS + 1


def test_a_vector_is_not_stored_twice(tmp_path: Path) -> None:
    features = FeatureStore(tmp_path, 8)
    features.add([digest(1), digest(1)], vectors(2))
    features.flush()
    features.add([digest(1)], vectors(1, 5))
    features.flush()

    assert len(list(tmp_path.glob("*.parquet"))) == 1
    np.testing.assert_array_equal(features.gather([digest(1)], tmp_path / "v"), vectors(2)[:1])


def test_an_unfinished_part_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "part-000000.tmp").write_bytes(b"PAR1 truncated")

    assert len(FeatureStore(tmp_path, 8)) == 0


def test_the_error_of_a_damaged_part_names_its_file(tmp_path: Path) -> None:
    features = FeatureStore(tmp_path, 8)
    features.add([digest(1)], vectors(1))
    features.flush()
    part = tmp_path / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-20])

    with pytest.raises(BadArtifact, match="part-000000"):
        FeatureStore(tmp_path, 8)


def test_vectors_of_another_dimension_are_refused(tmp_path: Path) -> None:
    features = FeatureStore(tmp_path, 8)
    features.add([digest(1)], vectors(1))
    features.flush()

    with pytest.raises(BadArtifact, match="16 dimensions"):
        FeatureStore(tmp_path, 16)


def test_gathering_an_unknown_digest_is_an_error_and_not_zeros(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        FeatureStore(tmp_path / "s", 8).gather([digest(1)], tmp_path / "v")
