"""Read the signatures of a SavedModel without TensorFlow. Reads files."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from google.protobuf.any_pb2 import Any
from google.protobuf.message import DecodeError

from encoders.tfserving.v1 import saved_model_pb2 as pb
from lookalike.errors import BadArtifact

SIGNATURE_DEF: Final = "signature_def"  # The one metadata field that TensorFlow-Serving supports.
_SERVING_TAG: Final = "serve"  # tf.saved_model.SERVING, the tag of the graph to serve.
_TYPE_URL: Final = "type.googleapis.com/tensorflow.serving.SignatureDefMap"


def read_signatures(model: Path) -> pb.SignatureDefMap:
    """Signatures of the serving graph in `model`/saved_model.pb. Raises BadArtifact."""
    path = model / "saved_model.pb"
    try:
        graphs = pb.SavedModel.FromString(path.read_bytes()).meta_graphs
    except (OSError, DecodeError) as error:
        raise BadArtifact(f"{path} is not a SavedModel: {error}") from error
    serving_graph = next((graph for graph in graphs if set(graph.meta_info_def.tags) == {_SERVING_TAG}), None)
    if serving_graph is None:
        raise BadArtifact(f"{path} has no serving graph")
    return pb.SignatureDefMap(signature_def=serving_graph.signature_def)


def pack_signatures(signatures: pb.SignatureDefMap) -> Any:
    """Pack signatures as in a GetModelMetadataResponse, under the official type name."""
    return Any(type_url=_TYPE_URL, value=signatures.SerializeToString(deterministic=True))
