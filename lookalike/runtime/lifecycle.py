"""The life cycle of a serving process: start, warm up, ready, SIGTERM, drain, stop. Serves gRPC, handles signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress

import grpc
import grpc.aio
import uvloop
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from lookalike.errors import OperatorError
from lookalike.runtime import edge, telemetry
from lookalike.runtime.settings import ProcessSettings

log = logging.getLogger(__name__)

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


def run(serving: Coroutine[None, None, None]) -> None:
    """Run a serving process on uvloop, whose passes take a tenth of a node's CPU less than asyncio's own loop.

    A thread that runs Python keeps the interpreter's lock for 1 ms at most while another waits for it, by default for
    5 ms: while a version is loaded, a call that needs the lock several times waits each time.
    """
    sys.setswitchinterval(0.001)
    uvloop.run(serving)


async def serve(
    settings: ProcessSettings,
    handlers: Sequence[grpc.GenericRpcHandler],
    *,
    services: Sequence[str],
    warm_up: Callable[[], Awaitable[None]] | None = None,
    freeze: bool = False,
) -> None:
    """Serve until SIGTERM or SIGINT.

    freeze: exempt what is loaded when `warm_up` has returned from garbage collection, which would halt every call for
    16 ms now and then to look through 80,000 objects. Nothing of it may need that collection to be freed later.

    Readiness: the health of the process ("") and of each of `services` (full names) is SERVING only after `warm_up`
    has returned. Liveness: the health of the health service itself is SERVING from the start. A signal sets all to
    NOT_SERVING at once; calls in progress then have `settings.drain_s` to finish.
    """
    server = edge.server(handlers, settings.grpc_server)
    checks = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    reflection.enable_server_reflection((*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    for name in ("", *services):
        await checks.set(name, NOT_SERVING)
    await checks.set(health.SERVICE_NAME, SERVING)
    port = _bind(server, settings)
    telemetry.expose_metrics(settings.host, settings.metrics_port)
    await server.start()
    log.info("listening on %s:%d", settings.host, port)

    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        if await _warm_up(warm_up, stopping):
            if freeze:
                gc.collect()
                gc.freeze()
            for name in ("", *services):
                await checks.set(name, SERVING)
            log.info("ready")
            await stopping.wait()
    finally:
        await checks.enter_graceful_shutdown()
        log.info("draining for at most %g s", settings.drain_s)
        await server.stop(settings.drain_s)
        log.info("stopped")


@asynccontextmanager
async def background_task(work: Coroutine[None, None, None]) -> AsyncIterator[asyncio.Task[None]]:
    """Run `work` as a task while the block runs. If it fails, the process must not go on without it: SIGTERM."""
    task = asyncio.create_task(work)
    task.add_done_callback(stop_if_failed)
    try:
        yield task
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def stop_if_failed(task: asyncio.Task[None]) -> None:
    """For `add_done_callback` of a task that the process must not go on without."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.critical("a background task failed; stopping", exc_info=error)
        signal.raise_signal(signal.SIGTERM)


def _bind(server: grpc.aio.Server, settings: ProcessSettings) -> int:
    address = f"{settings.host}:{settings.port}"
    try:
        return server.add_insecure_port(address)
    except RuntimeError as error:
        raise OperatorError(f"cannot listen on {address}: {error}") from error


async def _warm_up(warm_up: Callable[[], Awaitable[None]] | None, stopping: asyncio.Event) -> bool:
    """Run the warm-up; False if a signal came first. Raises what the warm-up raises."""
    if warm_up is None:
        return True
    warming, stop = asyncio.ensure_future(warm_up()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait((warming, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if warming.done():
        warming.result()
        return True
    warming.cancel()
    return False
