"""Run the model server in tests, with arithmetic fake models instead of TensorFlow's."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import grpc.aio
import numpy as np
import numpy.typing as npt

from encoders.image.signature import DIM, FEATURES, IMAGES, MODEL, SIGNATURE
from encoders.serving.batching import BatchingParameters
from encoders.serving.manager import ModelManager
from encoders.serving.model import ModelConfig
from encoders.serving.policy import Latest, VersionPolicy
from encoders.serving.saved_model import Servable
from encoders.serving.service import ModelServerService
from encoders.tfserving.v1 import prediction_pb2 as pb
from encoders.tfserving.v1 import saved_model_pb2
from lookalike.channels import aio_channel
from lookalike.runtime import edge
from lookalike.vectors import F32


class ArithmeticModel:
    """Fake model: maps an image to the unit vector of the axis given by its first byte; `gate` blocks runs."""

    def __init__(self, encoder: str = "mobilenet-0123456789ab") -> None:
        self.encoder = encoder
        self.signatures = saved_model_pb2.SignatureDefMap()
        self.signatures.signature_def[SIGNATURE].inputs[IMAGES].dtype = pb.DT_UINT8
        self.signatures.signature_def[SIGNATURE].outputs[FEATURES].dtype = pb.DT_FLOAT
        self.gate = threading.Event()
        self.gate.set()
        self.batches: list[int] = []

    def __call__(self, images: npt.NDArray[np.uint8]) -> F32:
        self.batches.append(len(images))
        assert self.gate.wait(10)
        return np.eye(DIM, dtype=np.float32)[images[:, 0, 0, 0]]


def images(*axes: int) -> npt.NDArray[np.uint8]:
    """Images that ArithmeticModel maps to the unit vectors of these axes."""
    pixels = np.zeros((len(axes), 224, 224, 3), np.uint8)
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
    start: bool = True,
    poll_s: float = 0,
    **batching: Any,
) -> AsyncIterator[str]:
    """Run a server of `models` and yield its address; batches of 4 unless `batching` says otherwise."""
    limits = {"max_batch_size": 256, "enable_large_batch_splitting": True, "max_execution_batch_size": 4}
    parameters = BatchingParameters(**{**limits, "max_enqueued_batches": 64, **batching})
    config = ModelConfig(name=MODEL, base_path=models / MODEL, policy=policy, labels=labels or {})
    manager = ModelManager([config], load, parameters)
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
