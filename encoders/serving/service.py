"""The PredictionService and ModelService RPCs: validate, handle and count requests as TensorFlow-Serving does.

No I/O of its own.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc

from encoders.image.prediction_service import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    BadTensor,
    to_array,
    to_string_tensor,
    to_tensor,
    type_name,
)
from encoders.image.signature import ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.serving import config_messages
from encoders.serving.manager import ModelManager
from encoders.serving.metrics import REQUEST_SECONDS, REQUESTS
from encoders.serving.model import LoadedVersion
from encoders.serving.scheduler import Pixels
from encoders.serving.signatures import SIGNATURE_DEF, pack_signatures
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.status import code_of

Request = TypeVar("Request", pb.PredictRequest, pb.GetModelMetadataRequest, pb.GetModelStatusRequest)
_Method = Callable[[Any, Deadline], Awaitable[Any]]
_Methods = Mapping[str, _Method]
_OUTPUTS = (FEATURES, ENCODER)


class ModelServerService:
    """The RPC methods of the model server. models: the folder in which a new configuration's base paths must be."""

    def __init__(self, manager: ModelManager, models: Path) -> None:
        self._manager = manager
        self._models = models

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services = pb.DESCRIPTOR.services_by_name
        predictions: _Methods = {"Predict": self.predict, "GetModelMetadata": self.metadata}
        models: _Methods = {"GetModelStatus": self.status, "HandleReloadConfigRequest": self.reload}
        return (
            edge.handler(services["PredictionService"], _all_with_metrics(predictions), name=PREDICTION_SERVICE),
            edge.handler(services["ModelService"], _all_with_metrics(models), name=MODEL_SERVICE),
        )

    async def predict(self, request: pb.PredictRequest, deadline: Deadline) -> pb.PredictResponse:
        with self._manager.lease(_spec(request)) as version:
            signature, outputs = _check_signature(request), _requested_outputs(request)
            images = _parse_images(request, version.servable.input_px)
            features = await version.session(images, deadline)
            response = pb.PredictResponse(model_spec=_response_spec(version, signature))
            if FEATURES in outputs:
                response.outputs[FEATURES].CopyFrom(to_tensor(features))
            if ENCODER in outputs:
                response.outputs[ENCODER].CopyFrom(to_string_tensor([version.servable.encoder.encode()] * len(images)))
            return response

    async def metadata(self, request: pb.GetModelMetadataRequest, deadline: Deadline) -> pb.GetModelMetadataResponse:
        spec = _spec(request)
        if not request.metadata_field:
            raise InvalidRequest("metadata_field", "GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise InvalidRequest("metadata_field", f"Metadata field {name} is not supported")
        with self._manager.lease(spec) as version:
            metadata = {SIGNATURE_DEF: pack_signatures(version.servable.signatures)}
            return pb.GetModelMetadataResponse(model_spec=_response_spec(version), metadata=metadata)

    async def status(self, request: pb.GetModelStatusRequest, deadline: Deadline) -> pb.GetModelStatusResponse:
        return pb.GetModelStatusResponse(model_version_status=self._manager.statuses(_spec(request)))

    async def reload(self, request: pb.ReloadConfigRequest, deadline: Deadline) -> pb.ReloadConfigResponse:
        await self._manager.reload(config_messages.parse_config(request.config, self._models), deadline)
        return pb.ReloadConfigResponse(status=pb.StatusProto())


def _all_with_metrics(methods: _Methods) -> dict[str, edge.Unary]:
    return {name: _with_metrics(name, method) for name, method in methods.items()}


def _with_metrics(name: str, method: _Method) -> edge.Unary:
    """The method, with its calls counted by outcome and timed."""
    seconds = REQUEST_SECONDS.labels(name)

    async def call(request: Any, deadline: Deadline) -> Any:
        started_s, spec, code = time.monotonic(), pb.ModelSpec(), "OK"
        try:
            response = await method(request, deadline)
            spec = getattr(response, "model_spec", spec)
            return response
        except BaseException as error:
            code = code_of(error).name
            raise
        finally:
            # Requested names that do not exist are not used as labels: they are unbounded.
            REQUESTS.labels(name, spec.name, str(spec.version.value) if spec.name else "", code).inc()
            seconds.observe(time.monotonic() - started_s)

    return call


def _spec(request: Request) -> pb.ModelSpec:
    if not request.HasField("model_spec"):
        raise InvalidRequest("model_spec", "Missing ModelSpec")
    return request.model_spec


def _response_spec(version: LoadedVersion, signature: str = "") -> pb.ModelSpec:
    spec = pb.ModelSpec(name=version.model, signature_name=signature)
    spec.version.value = version.number
    return spec


def _check_signature(request: pb.PredictRequest) -> str:
    signature = request.model_spec.signature_name or SIGNATURE
    if signature != SIGNATURE:
        raise FailedPrecondition(f'Serving signature key "{signature}" not found.')
    return signature


def _parse_images(request: pb.PredictRequest, input_px: int) -> Pixels:
    """Parse the one input of the one signature. Raises InvalidRequest."""
    if set(request.inputs) != {IMAGES}:
        names = ",".join(sorted(request.inputs))
        raise InvalidRequest("inputs", f"input size does not match signature: len({{{names}}}) != len({{{IMAGES}}})")
    field, tensor = f"inputs[{IMAGES}]", request.inputs[IMAGES]
    if tensor.dtype != pb.DT_UINT8:
        raise InvalidRequest(field, f"expected uint8, got {type_name(tensor.dtype)}")
    try:
        images = to_array(tensor)
    except BadTensor as error:
        raise InvalidRequest(field, str(error)) from error
    if images.shape[1:] != (input_px, input_px, 3) or not len(images):
        raise InvalidRequest(field, f"expected (n, {input_px}, {input_px}, 3), got {images.shape}")
    return images


def _requested_outputs(request: pb.PredictRequest) -> Sequence[str]:
    """The outputs to return: those of the filter, else all. Raises InvalidRequest."""
    outputs = list(request.output_filter)
    for name in outputs:
        if name not in _OUTPUTS:
            names = ",".join(sorted(_OUTPUTS))
            message = (
                f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{names}}}."
            )
            raise InvalidRequest("output_filter", message)
        if outputs.count(name) > 1:
            raise InvalidRequest("output_filter", f"duplicate output tensor alias: {name}")
    return outputs or _OUTPUTS
