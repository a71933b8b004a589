"""`lookalike serve worker`: makes the changes of product events. Composes the worker and serves its health."""

from __future__ import annotations

import asyncio
import io
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Final

from PIL import Image

from encoders.clients import EncodedVector, Encoders
from encoders.image.isolated_decoder import DecoderPool
from lookalike.credentials import key_of
from lookalike.errors import OperatorError, Unavailable
from lookalike.runtime import lifecycle, telemetry
from lookalike.runtime.deadline import Deadline
from lookalike.runtime.settings import load
from lookalike.stream.product_stream import ProductStream
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.stream.settings import StreamSettings
from lookalike.v1.types_pb2 import SPACE_IMAGE
from pipeline.features.store import FeatureStore
from pipeline.fetching.fetcher import PhotoFetcher
from pipeline.gateway import Gateway
from pipeline.worker import metrics
from pipeline.worker.change_writer import ChangeWriter
from pipeline.worker.event_handler import EventHandler
from pipeline.worker.known_photos import StoredPhotosKnown
from pipeline.worker.photo_vectors import PhotoVectors
from pipeline.worker.settings import WorkerSettings
from pipeline.worker.worker import Worker

log = logging.getLogger(__name__)

DESCRIPTION = """\
Make the changes of product events: fetch photos, have them encoded, keep the vectors in the feature store, and write
the changes through a gateway.

examples:
  lookalike serve worker --stream redis://127.0.0.1:6380 --gateway 127.0.0.1:50051 \\
      --model-server 127.0.0.1:8500 --features features --photos my-shop
  lookalike serve worker --stream redis://127.0.0.1:6380 --gateway 127.0.0.1:50051    (events without photos)
"""
_STATUS_S: Final = 2.0  # Between two looks at the stream for metrics.
_FLUSH_S: Final = 5.0  # What a crash may lose is encoded again.
_REFRESH_S: Final = 60.0
_TRIM_S: Final = 60.0
_CONNECT_S: Final = 1.0
_PROBE_S: Final = 30.0


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    settings = load(WorkerSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_logging(settings.log_level)
    lifecycle.run(serve(settings))


async def serve(settings: WorkerSettings) -> None:
    """Work until SIGTERM. Raises BadSettings for a Redis that may lose events."""
    started, stopping = asyncio.Event(), asyncio.Event()

    async def ready() -> None:
        await started.wait()

    async with lifecycle.background_task(_work(settings, started, stopping)) as working:
        await lifecycle.serve(settings, handlers=(), services=(), warm_up=ready)
        stopping.set()
        await asyncio.wait((working,))


async def _work(settings: WorkerSettings, started: asyncio.Event, stopping: asyncio.Event) -> None:
    async with AsyncExitStack() as parts:
        stream = await _open_stream(settings.stream_settings())
        parts.push_async_callback(stream.close)
        gateway = Gateway(settings.gateway, key_of("", settings.api_key_file))
        parts.push_async_callback(gateway.close)
        photos = await parts.enter_async_context(_photo_vectors(settings, gateway)) if settings.model_server else None
        worker = Worker(
            stream.consumer(settings.group, settings.worker_name()),
            EventHandler(ChangeWriter(gateway.batch_write), photos),
            settings.worker_options(),
            random=Random(settings.worker_name()),
        )
        await parts.enter_async_context(_repeating(_STATUS_S, lambda: _show_status(stream, settings.group)))
        await parts.enter_async_context(_repeating(_TRIM_S, lambda: _trim(stream, settings.keep_s)))
        started.set()
        await worker.run(stopping)


async def _open_stream(settings: StreamSettings) -> ProductStream:
    """The stream, as soon as it can be reached."""
    told = False
    while True:
        try:
            return await open_redis_stream(settings)
        except Unavailable as error:
            if not told:
                log.warning("waiting for the stream: %s", error)
            told = True
            await asyncio.sleep(_CONNECT_S)


@asynccontextmanager
async def _photo_vectors(settings: WorkerSettings, gateway: Gateway) -> AsyncIterator[PhotoVectors]:
    store = FeatureStore(settings.features, notice=log.warning)
    known = await asyncio.to_thread(StoredPhotosKnown, store)
    fetcher = PhotoFetcher(settings.fetch_settings())
    with DecoderPool(settings.image_threads) as decoders:
        encoders = Encoders(settings.encoder_settings(), decode=decoders.decode)
        photo = io.BytesIO()
        Image.new("RGB", (1, 1)).save(photo, "PNG")

        async def ask_encoder() -> str:
            """That of the version which the gateway serves, though the model server may have a newer one already."""
            served = await gateway.encoder(SPACE_IMAGE)
            await encoders.poll("")
            probe: EncodedVector = await encoders.encode_image(
                "image", photo.getvalue(), Deadline.after(_PROBE_S), served
            )
            await asyncio.to_thread(known.use, probe.encoder, len(probe.vector))
            return probe.encoder

        async with (
            _repeating(_REFRESH_S, lambda: encoders.poll("")),
            _repeating(_FLUSH_S, lambda: asyncio.to_thread(known.flush)),
            _repeating(_REFRESH_S, lambda: asyncio.to_thread(known.refresh)),
        ):
            try:
                yield PhotoVectors(fetcher, encoders.encode_image, ask_encoder, known)
            finally:
                await fetcher.close()
                await encoders.close()
                await asyncio.to_thread(known.flush)


async def _show_status(stream: ProductStream, group: str) -> None:
    status = await stream.status(group)
    metrics.LAG.set(status.lag)
    metrics.OLDEST.set(status.oldest_s)
    metrics.DEAD_LETTERS.set(status.dead_letters)


async def _trim(stream: ProductStream, keep_s: float) -> None:
    await stream.trim(older_than_s=keep_s)


@asynccontextmanager
async def _repeating(every_s: float, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do `work` now and then while the block runs. What fails is said once, and done again the next time."""

    async def repeat() -> None:
        failing = ""
        while True:
            await asyncio.sleep(every_s)
            try:
                await work()
                failing = ""
            except (Unavailable, OperatorError) as error:
                if str(error) != failing:
                    log.warning("%s", error)
                failing = str(error)

    async with lifecycle.background_task(repeat()):
        yield
