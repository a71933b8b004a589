"""The script that chooses the encoders of a text-encoder pod, against a build_index index."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.building.build import SpaceVectors, build
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_PRODUCT, SPACE_TEXT, Space
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "deploy" / "k8s" / "base" / "text-encoder" / "choose.py"
ENCODER = "scdv-0123456789ab"
PRODUCT = "product-0123456789ab"


def build_index(location: Path, *spaces: Space.ValueType) -> Path:
    vectors = np.eye(4, dtype=np.float32)
    encoders = {SPACE_TEXT: ENCODER, SPACE_IMAGE: "mobilenet-0123456789ab", SPACE_PRODUCT: PRODUCT}
    space_vectors: dict[int, SpaceVectors] = {
        space: SpaceVectors(encoder=encoders[space], vectors=vectors, rows=np.arange(4)) for space in spaces
    }
    build(location, pa.table({"id": ["a", "b", "c", "d"]}), space_vectors, shards=1)
    return location


def choose(location: Path, artifacts: Path, links: Path) -> subprocess.CompletedProcess[str]:
    # As in the pod, the packages of this repository cannot be imported.
    command = [sys.executable, "-I", str(SCRIPT), str(location), str(artifacts), str(links)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_the_encoder_that_the_index_was_built_with_is_linked(tmp_path: Path) -> None:
    (tmp_path / "text" / ENCODER).mkdir(parents=True)
    (tmp_path / "text" / "scdv-another").mkdir()
    for _ in range(2):  # A restarted container finds the link that it made before.
        process = choose(build_index(tmp_path / "index", SPACE_TEXT), tmp_path / "text", tmp_path / "chosen")
        assert process.returncode == 0, process.stderr
    assert (tmp_path / "chosen" / "text").resolve() == tmp_path / "text" / ENCODER
    assert not list((tmp_path / "chosen" / "product").iterdir())


def test_the_product_encoder_is_linked_if_the_index_has_a_product_space(tmp_path: Path) -> None:
    for encoder in (ENCODER, PRODUCT):
        (tmp_path / "text" / encoder).mkdir(parents=True)
    process = choose(build_index(tmp_path / "index", SPACE_TEXT, SPACE_PRODUCT), tmp_path / "text", tmp_path / "chosen")
    assert process.returncode == 0, process.stderr
    assert (tmp_path / "chosen" / "product").resolve() == tmp_path / "text" / PRODUCT


def test_a_missing_product_encoder_is_named_in_the_error(tmp_path: Path) -> None:
    (tmp_path / "text" / ENCODER).mkdir(parents=True)
    process = choose(build_index(tmp_path / "index", SPACE_TEXT, SPACE_PRODUCT), tmp_path / "text", tmp_path / "chosen")
    assert process.returncode != 0
    assert f"{PRODUCT}, which is not there" in process.stderr


@pytest.mark.parametrize(("space", "reason"), [(SPACE_TEXT, "which is not there"), (SPACE_IMAGE, "has no text space")])
def test_a_missing_text_encoder_or_text_space_is_an_error_that_says_so(
    tmp_path: Path, space: Space.ValueType, reason: str
) -> None:
    process = choose(build_index(tmp_path / "index", space), tmp_path / "text", tmp_path / "chosen")
    assert process.returncode != 0
    assert reason in process.stderr


def test_a_missing_index_is_an_error_that_says_so(tmp_path: Path) -> None:
    process = choose(tmp_path, tmp_path, tmp_path / "chosen")
    assert process.returncode != 0
    assert "no index to serve encoders for" in process.stderr
