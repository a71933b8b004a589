"""The embedded model server: TensorFlow-Serving's protocol over the same SavedModel, for a laptop and for tests."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import grpc
import numpy as np
import numpy.typing as npt
from prometheus_client import Histogram

from encoders.images import SIDE_PX
from encoders.models import Exported, exported
from encoders.prediction_service import (
    MODEL_SERVICE,
    PREDICTION_SERVICE,
    BadTensor,
    array,
    strings,
    tensor,
    type_name,
)
from encoders.signature import ENCODER, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.tensorflow_runtime import tensorflow
from lookalike import lifecycle, rpc, telemetry
from lookalike.coalesce import Coalescer
from lookalike.deadline import Deadline
from lookalike.errors import BadArtifact, InvalidRequest, NotFound, Unavailable, WrongState
from lookalike.settings import ProcessSettings, load, setting
from lookalike.vectors import F32
from protos.tfserving.v1 import prediction_pb2 as pb

log = logging.getLogger(__name__)

Pixels = npt.NDArray[np.uint8]  # (n, 224, 224, 3)

_BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64)
BATCH_IMAGES = Histogram("lookalike_model_batch_images", "Images in one run of the model.", buckets=_BATCH_SIZES)
BATCH_SECONDS = Histogram("lookalike_model_batch_seconds", "One run of the model.", buckets=telemetry.SECONDS_BUCKETS)


@dataclass(frozen=True, kw_only=True)
class ModelServerSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_MODEL_SERVER_"

    models: Path = setting(Path("models"), "the model is MODELS/mobilenet/<version>")  # noqa: RUF009  # a field, no value
    model_version: int = setting(0, "version to serve; 0: the highest there is", at_least=0)
    max_batch: int = setting(16, "images in one run of the model; more are split", at_least=1, at_most=256)
    max_waiting: int = setting(256, "images that may wait; beyond it: RESOURCE_EXHAUSTED", at_least=1, at_most=10_000)
    intra_op_threads: int = setting(0, "threads within one operation; 0: as many as cores", at_least=0, at_most=1024)
    inter_op_threads: int = setting(0, "operations side by side; 0: as many as cores", at_least=0, at_most=1024)


class Model:
    """One SavedModel, run by one thread. Blocking: `load` and `__call__` are for that thread."""

    def __init__(self, tf: Any, found: Exported, *, warm_up_images: int) -> None:
        self._tf = tf
        self._found = found
        self._warm_up_images = warm_up_images

    def load(self) -> None:
        """Read it and run the smallest and the largest batch once. Raises BadArtifact."""
        try:
            self._loaded: Any = self._tf.saved_model.load(str(self._found.path))  # Kept: it owns the variables.
            self._run = self._loaded.signatures[SIGNATURE]
            for count in (1, self._warm_up_images):
                outputs = self._outputs(np.zeros((count, SIDE_PX, SIDE_PX, 3), np.uint8))
        except (OSError, ValueError, KeyError, TypeError, self._tf.errors.OpError) as error:
            raise BadArtifact(f"{self._found.path} is no image model: {error}") from error
        said = outputs[ENCODER].numpy()[0].decode()
        if said != self._found.encoder:
            raise BadArtifact(f"{self._found.path} says it is {said}, its card says {self._found.encoder}")

    def __call__(self, images: Pixels) -> F32:
        """(n, 1024) float32 of unit norm."""
        BATCH_IMAGES.observe(len(images))
        with BATCH_SECONDS.time():
            features: F32 = self._outputs(images)[FEATURES].numpy()
            return features

    def _outputs(self, images: Pixels) -> Any:
        return self._run(**{IMAGES: self._tf.constant(images)})


class Runnable(Protocol):
    """Blocks; called by one thread."""

    def load(self) -> None: ...

    def __call__(self, images: Pixels) -> F32: ...


class ModelServer:
    """Requests to batches, for use on one event loop, and those to a thread of their own."""

    def __init__(self, model: Runnable, found: Exported, *, max_batch: int, max_waiting: int) -> None:
        self._model = model
        self._found = found
        self._max_batch = max_batch
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="tensorflow")
        self._batches: Coalescer[Pixels, F32] = Coalescer(
            self._send, max_in_flight=1, max_batch=max_batch, max_waiting=max_waiting, size=len
        )
        self._ready = False

    async def warm_up(self) -> None:
        """Load the model on its thread; until this is done every Predict is UNAVAILABLE."""
        await asyncio.get_running_loop().run_in_executor(self._thread, self._model.load)
        self._ready = True
        log.info("serving %s, version %d, from %s", self._found.encoder, self._found.version, self._found.path)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        services = pb.DESCRIPTOR.services_by_name
        predictions = {"Predict": self.predict, "GetModelMetadata": self.unserved}
        models = {"GetModelStatus": self.status, "HandleReloadConfigRequest": self.unserved}
        return (
            rpc.handler(services["PredictionService"], predictions, name=PREDICTION_SERVICE),
            rpc.handler(services["ModelService"], models, name=MODEL_SERVICE),
        )

    async def unserved(self, request: object, deadline: Deadline) -> pb.GetModelMetadataResponse:
        raise WrongState("this server does not do that")

    async def predict(self, request: pb.PredictRequest, deadline: Deadline) -> pb.PredictResponse:
        self._check_model(request.model_spec)
        images = _images(request)
        wanted = _wanted(request)
        if not self._ready:
            raise Unavailable("the model is being loaded")
        parts = [images[start : start + self._max_batch] for start in range(0, len(images), self._max_batch)]
        # One after the other: a request of many images takes its turn with everyone else's.
        features = [await self._batches(part, deadline) for part in parts]
        outputs = {
            FEATURES: lambda: tensor(np.concatenate(features)),
            ENCODER: lambda: strings([self._found.encoder.encode()] * len(images)),
        }
        spec = pb.ModelSpec(name=MODEL, signature_name=SIGNATURE)
        spec.version.value = self._found.version
        return pb.PredictResponse(model_spec=spec, outputs={name: outputs[name]() for name in wanted})

    async def status(self, request: pb.GetModelStatusRequest, deadline: Deadline) -> pb.GetModelStatusResponse:
        self._check_model(request.model_spec)
        states = pb.ModelVersionStatus
        state = states.AVAILABLE if self._ready else states.LOADING
        version = states(version=self._found.version, state=state, status=pb.StatusProto())
        return pb.GetModelStatusResponse(model_version_status=[version])

    async def _send(self, batch: list[Pixels]) -> Sequence[F32]:
        images = batch[0] if len(batch) == 1 else np.concatenate(batch)
        features = await asyncio.get_running_loop().run_in_executor(self._thread, self._model, images)
        return np.split(features, np.cumsum([len(part) for part in batch])[:-1])

    def _check_model(self, spec: pb.ModelSpec) -> None:
        if not spec.name:
            raise InvalidRequest("model_spec.name", "missing")
        if spec.version_label:
            raise InvalidRequest("model_spec.version_label", f"no version is labelled {spec.version_label}")
        asked = spec.version.value if spec.HasField("version") else self._found.version
        if spec.name != MODEL or asked != self._found.version:
            served = f"{MODEL}, version {self._found.version}"
            raise NotFound(f"{spec.name}, version {asked} is not served here: {served} is")


def _images(request: pb.PredictRequest) -> Pixels:
    """The one input of the one signature. Raises InvalidRequest, as TF-Serving does."""
    signature = request.model_spec.signature_name or SIGNATURE
    if signature != SIGNATURE:
        raise InvalidRequest("model_spec.signature_name", f"{signature} is not {SIGNATURE}")
    if set(request.inputs) != {IMAGES}:
        raise InvalidRequest(
            "inputs", f"{IMAGES} is what goes in, not {', '.join(sorted(request.inputs)) or 'nothing'}"
        )
    field, sent = f"inputs[{IMAGES}]", request.inputs[IMAGES]
    if sent.dtype != pb.DT_UINT8:
        raise InvalidRequest(field, f"uint8 is expected, {type_name(sent.dtype)} was sent")
    try:
        images = array(sent)
    except BadTensor as error:
        raise InvalidRequest(field, str(error)) from error
    if images.shape[1:] != (SIDE_PX, SIDE_PX, 3) or not len(images):
        raise InvalidRequest(field, f"(n, {SIDE_PX}, {SIDE_PX}, 3) is expected, {images.shape} was sent")
    return images


def _wanted(request: pb.PredictRequest) -> Sequence[str]:
    for name in request.output_filter:
        if name not in (FEATURES, ENCODER):
            raise InvalidRequest("output_filter", f"{name} is neither {FEATURES} nor {ENCODER}")
    return list(request.output_filter) or [FEATURES, ENCODER]


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    description = "Serve the image model with TensorFlow-Serving's protocol (Predict and GetModelStatus)."
    settings = load(ModelServerSettings, environ, argv, description=description)
    telemetry.configure_logging(settings.log_level)
    found = exported(settings.models, settings.model_version or None)
    tf = tensorflow(environ)
    tf.config.threading.set_intra_op_parallelism_threads(settings.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.inter_op_threads)
    server = ModelServer(
        Model(tf, found, warm_up_images=settings.max_batch),
        found,
        max_batch=settings.max_batch,
        max_waiting=settings.max_waiting,
    )
    try:
        asyncio.run(
            lifecycle.serve(
                settings, server.handlers(), services=(PREDICTION_SERVICE, MODEL_SERVICE), warm_up=server.warm_up
            )
        )
    finally:
        server.close()
