"""Reading the signatures of a SavedModel without TensorFlow."""

from __future__ import annotations

from pathlib import Path

import pytest

from encoders.serving.signatures import pack_signatures, read_signatures
from encoders.tfserving.v1.saved_model_pb2 import MetaGraphDef, SavedModel, SignatureDef
from lookalike.errors import BadArtifact

SERVING = MetaGraphDef(meta_info_def={"tags": ["serve"]}, signature_def={"one": SignatureDef(method_name="predict")})  # type: ignore[arg-type]  # a dict is taken


def write_saved_model(folder: Path, *graphs: MetaGraphDef) -> Path:
    (folder / "saved_model.pb").write_bytes(SavedModel(meta_graphs=graphs).SerializeToString())
    return folder


def test_the_signatures_are_those_of_the_serving_graph(tmp_path: Path) -> None:
    training = MetaGraphDef(meta_info_def={"tags": ["train"]}, signature_def={"two": SignatureDef()})  # type: ignore[arg-type]  # a dict is taken
    assert set(read_signatures(write_saved_model(tmp_path, training, SERVING)).signature_def) == {"one"}


def test_a_model_without_a_serving_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="no serving graph"):
        read_signatures(write_saved_model(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xff\xff", None])
def test_a_damaged_or_missing_file_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "saved_model.pb").write_bytes(content)
    with pytest.raises(BadArtifact, match=r"saved_model\.pb is not a SavedModel"):
        read_signatures(tmp_path)


def test_signatures_are_packed_under_their_official_name(tmp_path: Path) -> None:
    packed = pack_signatures(read_signatures(write_saved_model(tmp_path, SERVING)))
    assert packed.TypeName() == "tensorflow.serving.SignatureDefMap"
