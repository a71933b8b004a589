"""PredictionService and ModelService: requests checked, answered and counted as TensorFlow-Serving does."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import grpc

from encoders.image.photos import SIDE_PX
from encoders.image.prediction_service import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    BadTensor,
    array,
    strings,
    tensor,
    type_name,
)
from encoders.image.signature import ENCODER, FEATURES, IMAGES, SIGNATURE
from encoders.serving import config
from encoders.serving.metrics import REQUEST_SECONDS, REQUESTS
from encoders.serving.model import Loaded
from encoders.serving.scheduler import Pixels
from encoders.serving.signatures import SIGNATURE_DEF, packed
from encoders.serving.versions import Versions
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.errors import FailedPrecondition, InvalidRequest
from lookalike.runtime import edge
from lookalike.runtime.deadline import Deadline
from lookalike.status import code_of

Request = TypeVar("Request", pb.PredictRequest, pb.GetModelMetadataRequest, pb.GetModelStatusRequest)
_Method = Callable[[Any, Deadline], Awaitable[Any]]
_Methods = Mapping[str, _Method]
_OUTPUTS = (FEATURES, ENCODER)


class Service:
    """models: where the base paths of a new configuration must be."""

    def __init__(self, versions: Versions, models: Path) -> None:
        self._versions = versions
        self._models = models

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services = pb.DESCRIPTOR.services_by_name
        predictions: _Methods = {"Predict": self.predict, "GetModelMetadata": self.metadata}
        models: _Methods = {"GetModelStatus": self.status, "HandleReloadConfigRequest": self.reload}
        return (
            edge.handler(services["PredictionService"], _counted(predictions), name=PREDICTION_SERVICE),
            edge.handler(services["ModelService"], _counted(models), name=MODEL_SERVICE),
        )

    async def predict(self, request: pb.PredictRequest, deadline: Deadline) -> pb.PredictResponse:
        with self._versions.lease(_spec(request)) as version:
            signature, images, wanted = _signature(request), _images(request), _wanted(request)
            features = await version.lane(images, deadline)
            response = pb.PredictResponse(model_spec=_answered(version, signature))
            if FEATURES in wanted:
                response.outputs[FEATURES].CopyFrom(tensor(features))
            if ENCODER in wanted:
                response.outputs[ENCODER].CopyFrom(strings([version.servable.encoder.encode()] * len(images)))
            return response

    async def metadata(self, request: pb.GetModelMetadataRequest, deadline: Deadline) -> pb.GetModelMetadataResponse:
        spec = _spec(request)
        if not request.metadata_field:
            raise InvalidRequest("metadata_field", "GetModelMetadataRequest must specify at least one metadata_field")
        for name in request.metadata_field:
            if name != SIGNATURE_DEF:
                raise InvalidRequest("metadata_field", f"Metadata field {name} is not supported")
        with self._versions.lease(spec) as version:
            told = {SIGNATURE_DEF: packed(version.servable.signatures)}
            return pb.GetModelMetadataResponse(model_spec=_answered(version), metadata=told)

    async def status(self, request: pb.GetModelStatusRequest, deadline: Deadline) -> pb.GetModelStatusResponse:
        return pb.GetModelStatusResponse(model_version_status=self._versions.statuses(_spec(request)))

    async def reload(self, request: pb.ReloadConfigRequest, deadline: Deadline) -> pb.ReloadConfigResponse:
        await self._versions.reload(config.read(request.config, self._models), deadline)
        return pb.ReloadConfigResponse(status=pb.StatusProto())


def _counted(methods: _Methods) -> dict[str, edge.Unary]:
    return {name: _counting(name, method) for name, method in methods.items()}


def _counting(name: str, method: _Method) -> edge.Unary:
    seconds = REQUEST_SECONDS.labels(name)

    async def call(request: Any, deadline: Deadline) -> Any:
        began_s, spec, code = time.monotonic(), pb.ModelSpec(), "OK"
        try:
            response = await method(request, deadline)
            spec = getattr(response, "model_spec", spec)
            return response
        except BaseException as error:
            code = code_of(error).name
            raise
        finally:
            # Names that somebody asked for and that are not there are no label: there is no bound on them.
            REQUESTS.labels(name, spec.name, str(spec.version.value) if spec.name else "", code).inc()
            seconds.observe(time.monotonic() - began_s)

    return call


def _spec(request: Request) -> pb.ModelSpec:
    if not request.HasField("model_spec"):
        raise InvalidRequest("model_spec", "Missing ModelSpec")
    return request.model_spec


def _answered(version: Loaded, signature: str = "") -> pb.ModelSpec:
    spec = pb.ModelSpec(name=version.model, signature_name=signature)
    spec.version.value = version.number
    return spec


def _signature(request: pb.PredictRequest) -> str:
    signature = request.model_spec.signature_name or SIGNATURE
    if signature != SIGNATURE:
        raise FailedPrecondition(f'Serving signature key "{signature}" not found.')
    return signature


def _images(request: pb.PredictRequest) -> Pixels:
    """The one input of the one signature. Raises InvalidRequest."""
    if set(request.inputs) != {IMAGES}:
        sent = ",".join(sorted(request.inputs))
        raise InvalidRequest("inputs", f"input size does not match signature: len({{{sent}}}) != len({{{IMAGES}}})")
    field, given = f"inputs[{IMAGES}]", request.inputs[IMAGES]
    if given.dtype != pb.DT_UINT8:
        raise InvalidRequest(field, f"uint8 is expected, {type_name(given.dtype)} was sent")
    try:
        images = array(given)
    except BadTensor as error:
        raise InvalidRequest(field, str(error)) from error
    if images.shape[1:] != (SIDE_PX, SIDE_PX, 3) or not len(images):
        raise InvalidRequest(field, f"(n, {SIDE_PX}, {SIDE_PX}, 3) is expected, {images.shape} was sent")
    return images


def _wanted(request: pb.PredictRequest) -> Sequence[str]:
    """The outputs to send: those of the filter, else all. Raises InvalidRequest."""
    wanted = list(request.output_filter)
    for name in wanted:
        if name not in _OUTPUTS:
            names = ",".join(sorted(_OUTPUTS))
            said = f"output tensor alias not found in signature: {name} Outputs expected to be in the set {{{names}}}."
            raise InvalidRequest("output_filter", said)
        if wanted.count(name) > 1:
            raise InvalidRequest("output_filter", f"duplicate output tensor alias: {name}")
    return wanted or _OUTPUTS
