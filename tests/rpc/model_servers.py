"""Run the model server in tests, with arithmetic fake models instead of TensorFlow's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import numpy as np
import numpy.typing as npt

from encoders.image.prediction_service import GET_MODEL_METADATA, PREDICT
from encoders.image.signature import DEFAULT_INPUT_PX, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.serving.batching import BatchingParameters
from encoders.serving.manager import ModelManager
from encoders.serving.model import ModelConfig
from encoders.serving.policy import Latest, VersionPolicy
from encoders.serving.saved_model import Servable
from encoders.serving.service import ModelServerService
from encoders.serving.signatures import SIGNATURE_DEF, pack_signatures
from encoders.tfserving.v1 import prediction_pb2 as pb
from encoders.tfserving.v1 import saved_model_pb2
from lookalike.channels import aio_channel
from lookalike.runtime import edge
from lookalike.vectors import F32

DIM = 1024
Predict = Callable[[pb.PredictRequest, grpc.aio.ServicerContext[Any, Any]], Awaitable[pb.PredictResponse]]


def image_signatures(input_px: int = DEFAULT_INPUT_PX, dim: int = DIM) -> saved_model_pb2.SignatureDefMap:
    """The signature that an exported model has."""
    signatures = saved_model_pb2.SignatureDefMap()
    signature = signatures.signature_def[SIGNATURE]
    for tensor, dtype, sizes in (
        (signature.inputs[IMAGES], pb.DT_UINT8, (-1, input_px, input_px, 3)),
        (signature.outputs[FEATURES], pb.DT_FLOAT, (-1, dim)),
    ):
        tensor.dtype = dtype
        tensor.tensor_shape.dim.extend(pb.TensorShapeProto.Dim(size=size) for size in sizes)
    return signatures


def metadata_response(
    input_px: int = DEFAULT_INPUT_PX, dim: int = DIM, *, version: int = 0
) -> pb.GetModelMetadataResponse:
    """What a server answers of a model with the signature that an exported one has."""
    response = pb.GetModelMetadataResponse(metadata={SIGNATURE_DEF: pack_signatures(image_signatures(input_px, dim))})
    response.model_spec.version.value = version
    return response


def prediction_service(
    predict: Predict, describe: Callable[[], pb.GetModelMetadataResponse] = metadata_response
) -> grpc.GenericRpcHandler:
    """A handler of Predict, as stated, and of GetModelMetadata."""

    async def metadata(request: pb.GetModelMetadataRequest, context: Any) -> pb.GetModelMetadataResponse:
        return describe()

    def unary(method: Any, request: Any, response: Any) -> grpc.RpcMethodHandler[Any, Any]:
        return grpc.unary_unary_rpc_method_handler(method, request.FromString, response.SerializeToString)

    service, name = PREDICT.strip("/").split("/")
    methods = {
        name: unary(predict, pb.PredictRequest, pb.PredictResponse),
        GET_MODEL_METADATA.rpartition("/")[2]: unary(metadata, pb.GetModelMetadataRequest, pb.GetModelMetadataResponse),
    }
    return grpc.method_handlers_generic_handler(service, methods)


class ArithmeticModel:
    """Fake model: maps an image to the unit vector of the axis given by its first byte; `gate` blocks runs."""

    def __init__(
        self, encoder: str = "mobilenet-0123456789ab", *, input_px: int = DEFAULT_INPUT_PX, dim: int = DIM
    ) -> None:
        self.encoder, self.input_px, self._dim = encoder, input_px, dim
        self.signatures = image_signatures(input_px, dim)
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def __call__(self, images: npt.NDArray[np.uint8]) -> F32:
        self.batches.append(len(images))
        assert self.gate.wait(10)
        return np.eye(self._dim, dtype=np.float32)[images[:, 0, 0, 0]]


def images(*axes: int, side_px: int = DEFAULT_INPUT_PX) -> npt.NDArray[np.uint8]:
    """Images that ArithmeticModel maps to the unit vectors of these axes."""
    pixels = np.zeros((len(axes), side_px, side_px, 3), np.uint8)
    pixels[:, 0, 0, 0] = axes
    return pixels


def write_version(models: Path, *numbers: int, name: str = MODEL) -> None:
    """Create the files by which a server recognises versions; TensorFlow could not load them."""
    for number in numbers:
        (models / name / str(number)).mkdir(parents=True)
        (models / name / str(number) / "saved_model.pb").touch()


@asynccontextmanager
async def model_server_channel(
    models: Path, load: Callable[[Path], Servable], **options: Any
) -> AsyncIterator[grpc.aio.Channel]:
    """A channel to a server that `run_model_server` starts."""
    async with run_model_server(models, load, **options) as address, aio_channel(address) as channel:
        yield channel


@asynccontextmanager
async def run_model_server(
    models: Path,
    load: Callable[[Path], Servable],
    *,
    policy: VersionPolicy = Latest(),  # noqa: B008  # frozen
    labels: Mapping[str, int] | None = None,
    name: str = MODEL,
    start: bool = True,
    poll_s: float = 0,
    needed: Callable[[], Collection[str]] = tuple,
    **batching: Any,
) -> AsyncIterator[str]:
    """Run a server of `models` and yield its address; batches of 4 unless `batching` says otherwise."""
    limits = {"max_batch_size": 256, "enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    parameters = BatchingParameters(**{**limits, "max_enqueued_batches": 64, **batching})
    config = ModelConfig(name=name, base_path=models / name, policy=policy, labels=labels or {})
    manager = ModelManager([config], load, parameters, needed)
    grpc_server = edge.server(ModelServerService(manager, models).handlers())
    port = grpc_server.add_insecure_port("127.0.0.1:0")
    await grpc_server.start()
    watch_task = None
    try:
        if start:
            await manager.start()
            watch_task = asyncio.ensure_future(manager.watch(poll_s))
        yield f"127.0.0.1:{port}"
    finally:
        await grpc_server.stop(None)
        if watch_task is not None:
            watch_task.cancel()
            with suppress(asyncio.CancelledError):
                await watch_task
        manager.close()


async def until(condition: Callable[[], Any]) -> None:
    """Wait until the condition is true; TimeoutError after ten seconds."""
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110  # a thread without an event makes it true
            await asyncio.sleep(0.002)
