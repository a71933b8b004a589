"""The RPCs of every service as fuzz tests call them: paths, message types, values that are likely to be accepted."""

from __future__ import annotations

import struct
import time
from collections.abc import Mapping
from dataclasses import dataclass
from io import BytesIO
from typing import Any

from google.protobuf.descriptor import Descriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from hypothesis import strategies as st
from PIL import Image

from encoders.image.prediction_service import MODEL_SERVICE, PREDICTION_SERVICE
from encoders.image.signature import IMAGES
from encoders.tfserving.v1 import config_pb2, prediction_pb2
from lookalike.v1 import catalog_pb2, index_pb2, product_encoder_pb2, search_pb2, text_encoder_pb2
from lookalike.v1.types_pb2 import Product
from tests.fuzz.vocabulary import IMAGE_DIM, INPUT_PX, TEXT_DIM, TITLES
from tests.fuzz.wire import Hints, field, pack_float, varint


@dataclass(frozen=True)
class Rpc:
    """One method, as the server of `target` has it."""

    target: str
    path: str
    request: Descriptor
    response: type[Message]
    streams_requests: bool
    streams_responses: bool

    def __repr__(self) -> str:  # As a find is reported.
        return f"{self.target}{self.path}"


_SERVICES: tuple[tuple[str, Any, str, str], ...] = (
    ("gateway", search_pb2, "SimilarProducts", ""),
    ("gateway", catalog_pb2, "Catalog", ""),
    ("gateway", health_pb2, "Health", ""),
    ("gateway", reflection_pb2, "ServerReflection", ""),
    ("node", search_pb2, "SimilarProducts", ""),
    ("node", catalog_pb2, "Catalog", ""),
    ("shard", index_pb2, "IndexShard", ""),
    ("text_encoder", text_encoder_pb2, "TextEncoder", ""),
    ("text_encoder", product_encoder_pb2, "ProductEncoder", ""),
    ("model_server", prediction_pb2, "PredictionService", PREDICTION_SERVICE),
    ("model_server", prediction_pb2, "ModelService", MODEL_SERVICE),
)
RPCS: tuple[Rpc, ...] = tuple(
    Rpc(
        target,
        f"/{name or file.DESCRIPTOR.services_by_name[service].full_name}/{method.name}",
        method.input_type,
        GetMessageClass(method.output_type),
        method.client_streaming,
        method.server_streaming,
    )
    for target, file, service, name in _SERVICES
    for method in file.DESCRIPTOR.services_by_name[service].methods
)


def photos() -> tuple[bytes, ...]:
    """Small photos that are fine, and one that is not."""
    encoded: list[bytes] = []
    for kind in ("PNG", "JPEG", "WEBP", "GIF", "BMP"):
        buffer = BytesIO()
        Image.new("RGB", (40, 30), (200, 30, len(encoded))).save(buffer, kind)
        encoded.append(buffer.getvalue())
    return (*encoded, encoded[1][:200])


def vectors(dim: int) -> st.SearchStrategy[bytes]:
    """Vectors of a dimension: of any norm, zero, not finite, so large that their norm overflows."""
    odd = st.sampled_from((0.0, 1e-30, 3e38, float("nan"), float("inf"), 1e-45))
    plain = st.integers(1, 255).map(lambda seed: [((seed * k) % 17 - 8) / 8 + 0.01 for k in range(1, dim + 1)])
    return st.one_of(plain, plain, plain, odd.map(lambda value: [value] * dim)).map(
        lambda values: struct.pack(f"<{dim}f", *values)
    )


def hints(addresses: Mapping[str, str]) -> Hints:
    """What the system at these addresses is likely to accept."""
    ids = st.one_of(st.integers(0, 899), st.integers(0, 3)).map(lambda row: f"p{row}".encode())
    version = addresses["version"].encode()
    versions = st.sampled_from((version, version, version, b""))
    fingerprints = st.sampled_from([b"", *(addresses[f"{kind}_fingerprint"].encode() for kind in ("text", "product"))])
    texts = st.sampled_from([title.encode() for title in TITLES])
    any_vector = st.one_of(vectors(IMAGE_DIM), vectors(TEXT_DIM))
    now_us = time.time_ns() // 1000
    revisions = st.integers(0, 10**6).map(lambda before_us: varint(now_us - before_us))
    limits, spaces = st.integers(1, 12).map(varint), st.sampled_from((0, 0, 0, 1, 2, 3)).map(varint)
    columns = st.sampled_from([each.name.encode() for each in Product.DESCRIPTOR.fields])
    examples = st.one_of(
        ids.map(lambda each: field(1, each)),
        ids.map(lambda each: field(1, each)),
        texts.map(lambda each: field(3, each)),
        st.sampled_from(photos()).map(lambda each: field(2, each)),
        texts.map(lambda each: field(3, each)),
        any_vector.map(lambda each: field(4, each)),
    )
    served = config_pb2.ModelConfig(
        name="mobilenet", base_path=f"{addresses['models']}/mobilenet", model_platform="tensorflow"
    )
    values = {
        "lookalike.v1": {
            "SearchRequest.examples": examples,
            "SearchRequest.space": spaces,
            "SearchRequest.limit": limits,
            "SearchStreamRequest.id": limits,
            "FindDuplicatesRequest.example": examples,
            "ClassifyRequest.product_id": ids,
            "GetRequest.product_id": ids,
            "ExistsRequest.product_ids": ids,
            "RemoveRequest.product_id": ids,
            "RemoveRequest.revision": revisions,
            "UpsertRequest.revision": revisions,
            "UpsertRequest.image": st.sampled_from(photos()),
            "UpsertRequest.encode": st.sampled_from((b"\0", b"\1")),
            "PatchRequest.revision": revisions,
            "PatchRequest.update_mask": columns.map(lambda path: field(1, path)),
            "RemoveWhereRequest.dry_run": st.sampled_from((b"\1", b"\1", b"\1", b"\0")),
            "RemoveWhereRequest.revision": revisions,
            "WaitRequest.timeout_s": st.sampled_from((0.0, 0.01, 0.1)).map(pack_float),
            "Product.id": ids,
            "Product.title": texts,
            "SpaceVector.vector": any_vector,
            "SpaceVector.space": spaces,
            "QueryVector.vector": any_vector,
            "QueryVector.space": spaces,
            "ShardSearchRequest.version": versions,
            "ShardQuery.k": limits,
            "FetchRequest.version": versions,
            "FetchRequest.ids": ids,
            "ShardCountRequest.version": versions,
            "ShardListRequest.version": versions,
            "ApplyRequest.version": versions,
            "ListChangesRequest.version": versions,
            "ListRecentRevisionsRequest.version": versions,
            "ListRevisionsRequest.version": versions,
            "Update.revision": revisions,
            "SealRequest.seconds": st.sampled_from((0.0, 0.01)).map(lambda value: struct.pack("<d", value)),
            "EncodeTextRequest.texts": texts,
            "EncodeTextRequest.fingerprint": fingerprints,
            "LeaveOutWordsRequest.text": texts,
            "LeaveOutWordsRequest.fingerprint": fingerprints,
            "ProductInput.image": vectors(IMAGE_DIM),
            "ProductInput.text": vectors(TEXT_DIM),
            "EncodeProductsRequest.fingerprint": fingerprints,
            "ClassifyProductsRequest.fingerprint": fingerprints,
        },
        "tfserving.v1": {
            "ModelSpec.name": st.just(b"mobilenet"),
            "PredictRequest.inputs": st.integers(1, 3).map(_image_input),
            "GetModelMetadataRequest.metadata_field": st.just(b"signature_def"),
            "ModelConfigList.config": st.just(served.SerializeToString()),
        },
        "grpc.health.v1": {"HealthCheckRequest.service": st.sampled_from((b"", b"lookalike.v1.Catalog"))},
        "grpc.reflection.v1alpha": {
            "ServerReflectionRequest.file_containing_symbol": st.sampled_from((b"lookalike.v1.Catalog", b"lookalike"))
        },
    }
    required = (
        "lookalike.v1.BatchSearchRequest.requests lookalike.v1.SearchStreamRequest.request "
        "lookalike.v1.UpsertRequest.product lookalike.v1.UpsertRequest.vectors lookalike.v1.PatchRequest.product "
        "lookalike.v1.Change.upsert lookalike.v1.BatchWriteRequest.changes lookalike.v1.EnqueueRequest.changes "
        "lookalike.v1.RemoveWhereRequest.filter lookalike.v1.ShardSearchRequest.queries "
        "lookalike.v1.ShardQuery.vectors "
        "lookalike.v1.ApplyRequest.updates lookalike.v1.Update.upsert lookalike.v1.Upsert.product "
        "lookalike.v1.Upsert.vectors lookalike.v1.EncodeProductsRequest.inputs "
        "lookalike.v1.ClassifyProductsRequest.inputs tfserving.v1.PredictRequest.model_spec "
        "tfserving.v1.GetModelMetadataRequest.model_spec tfserving.v1.GetModelStatusRequest.model_spec "
        "tfserving.v1.ReloadConfigRequest.config tfserving.v1.ModelServerConfig.model_config_list"
    )
    by_name = {f"{package}.{name}": value for package, each in values.items() for name, value in each.items()}
    return Hints(by_name, frozenset(required.split()))


def _image_input(count: int) -> bytes:
    """An entry of the map `inputs`: a tensor of `count` photos."""
    tensor = prediction_pb2.TensorProto(dtype=prediction_pb2.DT_UINT8, tensor_content=bytes(count * INPUT_PX**2 * 3))
    tensor.tensor_shape.dim.extend(
        prediction_pb2.TensorShapeProto.Dim(size=size) for size in (count, INPUT_PX, INPUT_PX, 3)
    )
    return field(1, IMAGES.encode()) + field(2, tensor.SerializeToString())
