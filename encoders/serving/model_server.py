"""The embedded model server, `lookalike serve model-server`: a gRPC server with TensorFlow-Serving's protocol.

Serves the SavedModel that TensorFlow-Serving would serve.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from encoders.image.models import find_model
from encoders.image.prediction_service import MODEL_SERVICE, PREDICTION_SERVICE
from encoders.image.tensorflow_runtime import import_tensorflow
from encoders.serving.manager import ModelManager
from encoders.serving.needed_models import NeededEncoders
from encoders.serving.saved_model import SavedModel, Servable
from encoders.serving.service import ModelServerService
from encoders.serving.settings import ModelServerSettings, batching_parameters, model_config
from lookalike.releases.settings import open_index_location
from lookalike.runtime import lifecycle, security, telemetry
from lookalike.runtime.settings import load


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    description = "Serve the image model with TensorFlow-Serving's PredictionService and ModelService."
    settings = load(ModelServerSettings, environ, argv, description=description)
    telemetry.configure_process_logging(settings)
    security.use_outgoing_tls(settings)
    batching = batching_parameters(settings)
    find_model(
        settings.models, name=settings.model
    )  # Without any model, fail at once, before the slow import, and say how to export one.
    tf = import_tensorflow(environ)
    tf.config.threading.set_intra_op_parallelism_threads(settings.intra_op_threads)
    tf.config.threading.set_inter_op_parallelism_threads(settings.inter_op_threads)
    # TensorFlow's 370,000 objects are permanent: a garbage collection takes 0.6 s with them, 5 ms without.
    gc.collect()
    gc.freeze()
    lifecycle.run(serve(settings, lambda path: SavedModel(tf, path, batching)))


async def serve(settings: ModelServerSettings, load_version: Callable[[Path], Servable]) -> None:
    """Serve until SIGTERM. Raises BadSettings, and BadArtifact if no version can be loaded at the start."""
    needed = NeededEncoders(open_index_location(settings)) if settings.location else tuple
    manager = ModelManager([model_config(settings)], load_version, batching_parameters(settings), needed)
    service = ModelServerService(manager, settings.models)
    watch_stack = contextlib.ExitStack()
    try:
        with watch_stack:
            await lifecycle.serve(
                settings,
                service.handlers(),
                services=(PREDICTION_SERVICE, MODEL_SERVICE),
                warm_up=partial(_start, manager, settings.file_system_poll_wait_seconds, watch_stack),
            )
    finally:
        manager.close()


async def _start(manager: ModelManager, poll_s: float, watch_stack: contextlib.ExitStack) -> None:
    await manager.start()
    watch = asyncio.create_task(manager.watch(poll_s))
    watch.add_done_callback(lifecycle.stop_if_failed)
    watch_stack.callback(watch.cancel)
