"""The feature store: vectors kept once, whole parts only."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lookalike.errors import BadArtifact
from lookalike.vectors import F32
from pipeline.feature_store import PART_ROWS, Features


def digest(number: int) -> str:
    return f"{number:032x}"


def vectors(count: int, seed: int = 0) -> F32:
    return np.random.default_rng(seed).standard_normal((count, 8), dtype=np.float32)


def test_what_was_kept_is_known_to_the_next_run(tmp_path: Path) -> None:
    kept = vectors(3)
    first = Features(tmp_path / "store", 8)
    first.add([digest(1), digest(2), digest(3)], kept)
    assert digest(2) in first
    first.flush()

    second = Features(tmp_path / "store", 8)

    assert len(second) == 3
    assert digest(4) not in second
    gathered = second.gathered([digest(3), digest(1), digest(3)], tmp_path / "v.npy")
    np.testing.assert_array_equal(gathered, kept[[2, 0, 2]])
    assert isinstance(gathered, np.memmap)


def test_parts_are_written_as_they_fill_and_join_those_that_are_there(tmp_path: Path) -> None:
    first = Features(tmp_path, 8)
    for start in range(0, 2 * PART_ROWS + 10, 16):
        first.add([digest(start + n) for n in range(16)], vectors(16, start))
    interrupted = Features(tmp_path, 8)
    assert len(interrupted) == 2 * PART_ROWS

    interrupted.add([digest(10**6)], vectors(1))
    interrupted.flush()

    assert sorted(path.name for path in tmp_path.glob("*.parquet")) == [f"part-{n:06d}.parquet" for n in range(3)]
    assert len(Features(tmp_path, 8)) == 2 * PART_ROWS + 1


def test_a_vector_that_is_known_is_not_kept_twice(tmp_path: Path) -> None:
    features = Features(tmp_path, 8)
    features.add([digest(1), digest(1)], vectors(2))
    features.flush()
    features.add([digest(1)], vectors(1, 5))
    features.flush()

    assert len(list(tmp_path.glob("*.parquet"))) == 1
    np.testing.assert_array_equal(features.gathered([digest(1)], tmp_path / "v"), vectors(2)[:1])


def test_a_part_that_was_never_finished_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "part-000000.tmp").write_bytes(b"PAR1 half of it")

    assert len(Features(tmp_path, 8)) == 0


def test_a_damaged_part_is_named(tmp_path: Path) -> None:
    features = Features(tmp_path, 8)
    features.add([digest(1)], vectors(1))
    features.flush()
    part = tmp_path / "part-000000.parquet"
    part.write_bytes(part.read_bytes()[:-20])

    with pytest.raises(BadArtifact, match="part-000000"):
        Features(tmp_path, 8)


def test_vectors_of_another_dimension_are_refused(tmp_path: Path) -> None:
    features = Features(tmp_path, 8)
    features.add([digest(1)], vectors(1))
    features.flush()

    with pytest.raises(BadArtifact, match="16 dimensions"):
        Features(tmp_path, 16)


def test_a_digest_without_a_vector_is_a_bug_and_not_zeros(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Features(tmp_path / "s", 8).gathered([digest(1)], tmp_path / "v")
