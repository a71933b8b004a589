"""The script that picks the encoders of a pod, against an index as it is built."""

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


def built(location: Path, *spaces: Space.ValueType) -> Path:
    vectors = np.eye(4, dtype=np.float32)
    encoders = {SPACE_TEXT: ENCODER, SPACE_IMAGE: "mobilenet-0123456789ab", SPACE_PRODUCT: PRODUCT}
    given: dict[int, SpaceVectors] = {
        space: SpaceVectors(encoder=encoders[space], vectors=vectors, rows=np.arange(4)) for space in spaces
    }
    build(location, pa.table({"id": ["a", "b", "c", "d"]}), given, shards=1)
    return location


def choose(location: Path, artifacts: Path, chosen: Path) -> subprocess.CompletedProcess[str]:
    # As in the pod: nothing of ours can be imported.
    words = [sys.executable, "-I", str(SCRIPT), str(location), str(artifacts), str(chosen)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_the_encoder_that_the_index_was_built_with_is_linked(tmp_path: Path) -> None:
    (tmp_path / "text" / ENCODER).mkdir(parents=True)
    (tmp_path / "text" / "scdv-another").mkdir()
    for _ in range(2):  # A container that starts anew finds its own link.
        ended = choose(built(tmp_path / "index", SPACE_TEXT), tmp_path / "text", tmp_path / "chosen")
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "chosen" / "text").resolve() == tmp_path / "text" / ENCODER
    assert not list((tmp_path / "chosen" / "product").iterdir())


def test_the_product_encoder_is_linked_where_the_index_has_its_space(tmp_path: Path) -> None:
    for encoder in (ENCODER, PRODUCT):
        (tmp_path / "text" / encoder).mkdir(parents=True)
    ended = choose(built(tmp_path / "index", SPACE_TEXT, SPACE_PRODUCT), tmp_path / "text", tmp_path / "chosen")
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "chosen" / "product").resolve() == tmp_path / "text" / PRODUCT


def test_a_product_encoder_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "text" / ENCODER).mkdir(parents=True)
    ended = choose(built(tmp_path / "index", SPACE_TEXT, SPACE_PRODUCT), tmp_path / "text", tmp_path / "chosen")
    assert ended.returncode != 0
    assert f"{PRODUCT}, which is not there" in ended.stderr


@pytest.mark.parametrize(
    ("space", "complaint"), [(SPACE_TEXT, "which is not there"), (SPACE_IMAGE, "has no text space")]
)
def test_an_encoder_that_cannot_be_had_is_named(tmp_path: Path, space: Space.ValueType, complaint: str) -> None:
    ended = choose(built(tmp_path / "index", space), tmp_path / "text", tmp_path / "chosen")
    assert ended.returncode != 0
    assert complaint in ended.stderr


def test_no_index_is_told_as_such(tmp_path: Path) -> None:
    ended = choose(tmp_path, tmp_path, tmp_path / "chosen")
    assert ended.returncode != 0
    assert "no index to serve encoders for" in ended.stderr
