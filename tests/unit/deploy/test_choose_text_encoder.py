"""The script that picks the text encoder of a pod, against an index as it is built."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from index.build import SpaceVectors, build
from protos.lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from tests.conftest import REPOSITORY

SCRIPT = REPOSITORY / "deploy" / "k8s" / "base" / "text-encoder" / "choose.py"
ENCODER = "scdv-0123456789ab"


def built(location: Path, space: int) -> Path:
    vectors = np.eye(4, dtype=np.float32)
    given = SpaceVectors(encoder=ENCODER, vectors=vectors, rows=np.arange(4))
    build(location, pa.table({"id": ["a", "b", "c", "d"]}), {space: given}, shards=1)
    return location


def choose(location: Path, artifacts: Path, link: Path) -> subprocess.CompletedProcess[str]:
    # As in the pod: nothing of ours can be imported.
    words = [sys.executable, "-I", str(SCRIPT), str(location), str(artifacts), str(link)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_the_encoder_that_the_index_was_built_with_is_linked(tmp_path: Path) -> None:
    (tmp_path / "text" / ENCODER).mkdir(parents=True)
    (tmp_path / "text" / "scdv-another").mkdir()
    for _ in range(2):  # A container that starts anew finds its own link.
        ended = choose(built(tmp_path / "index", SPACE_TEXT), tmp_path / "text", tmp_path / "artifact")
        assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "artifact").resolve() == tmp_path / "text" / ENCODER


@pytest.mark.parametrize(
    ("space", "complaint"), [(SPACE_TEXT, "which is not there"), (SPACE_IMAGE, "has no text space")]
)
def test_an_encoder_that_cannot_be_had_is_named(tmp_path: Path, space: int, complaint: str) -> None:
    ended = choose(built(tmp_path / "index", space), tmp_path / "text", tmp_path / "artifact")
    assert ended.returncode != 0
    assert complaint in ended.stderr


def test_no_index_is_told_as_such(tmp_path: Path) -> None:
    ended = choose(tmp_path, tmp_path, tmp_path / "artifact")
    assert ended.returncode != 0
    assert "no index to serve texts for" in ended.stderr
