"""The life cycle of a serving process: start, warm up, ready, SIGTERM, drain, stop. Serves gRPC, handles signals."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from time import monotonic
from types import FrameType

import grpc
import grpc.aio
import uvloop

from lookalike.errors import OperatorError
from lookalike.runtime import edge, metrics_page, otlp, security
from lookalike.runtime.call import Guard
from lookalike.runtime.listening import ServerSockets
from lookalike.runtime.settings import ProcessSettings
from lookalike.runtime.standard_services import HEALTH, NOT_SERVING, SERVING, HealthService, reflection_handler

log = logging.getLogger(__name__)

SIGNALS = (signal.SIGTERM, signal.SIGINT)

# Looks at the connections while they drain. Two looks make a GOAWAY: clients are gone 50 to 100 ms after the signal.
_LOOK_S = 0.02
# Of the time to drain: for the calls of clients that stay in spite of a GOAWAY, while new ones are refused.
_LAST_SHARE = 0.2


class StoppedInWarmUp(Exception):
    """A signal came before the process was ready."""


def run(serving: Coroutine[None, None, None]) -> None:
    """Run a serving process on uvloop, whose passes take a tenth of a node's CPU less than asyncio's own loop.

    A thread that runs Python keeps the interpreter's lock for 1 ms at most while another waits for it, by default for
    5 ms: while a version is loaded, a call that needs the lock several times waits each time.
    """
    sys.setswitchinterval(0.001)
    uvloop.run(_end_with_warm_up(serving))


async def _end_with_warm_up(serving: Coroutine[None, None, None]) -> None:
    try:
        await serving
    except StoppedInWarmUp:
        # Threads of the warm-up may read an index for minutes yet, and asyncio would wait for them.
        logging.shutdown()
        os._exit(0)


async def serve(
    settings: ProcessSettings,
    handlers: Sequence[grpc.GenericRpcHandler],
    *,
    services: Sequence[str],
    warm_up: Callable[[], Awaitable[None]] | None = None,
    freeze: bool = False,
    guard: Guard | None = None,
) -> None:
    """Serve until SIGTERM or SIGINT.

    guard: refuses calls of the handlers, of reflection and of the metrics page; health is open. None: all pass.

    freeze: exempt what is loaded when `warm_up` has returned from garbage collection, which would halt every call for
    16 ms now and then to look through 80,000 objects. Nothing of it may need that collection to be freed later.

    Readiness: the health of the process ("") and of each of `services` (full names) is SERVING only after `warm_up`
    has returned. Liveness: the health of the health service itself is SERVING from the start. A signal sets all to
    NOT_SERVING at once, and clients are asked to use other connections; what they still send here is answered until
    they have gone, for at most `settings.drain_s`. A second signal ends the process at once.

    Raises StoppedInWarmUp.
    """
    files = security.server_files(settings)
    tls = security.server_tls(files)
    age_s = security.connection_age_s(settings.drain_s) if tls else 0.0
    all_guarded = [*handlers, reflection_handler(services)]
    named = security.guard_of(settings, guard)
    server = edge.server(all_guarded, settings.grpc_server, guard=named, tls_age_s=age_s)
    health = HealthService()
    server.add_generic_rpc_handlers((health.handler(),))  # Open to all.
    for name in ("", *services):
        health.set(name, NOT_SERVING)
    health.set(HEALTH, SERVING)
    port = _bind(server, settings, tls)
    metrics_page.expose_metrics(settings.host, settings.metrics_port, guard, security.metrics_tls(files))
    probes = await serve_health_alone(health, settings)
    security.report_exposure(settings)
    stop_tracing = otlp.start(settings)
    await server.start()
    log.info("listening on %s:%d", settings.host, port)

    stopping = asyncio.Event()
    _on_signals(stopping)
    ready = False
    try:
        await _warm_up(warm_up, stopping)
        if freeze:
            gc.collect()
            gc.freeze()
        for name in ("", *services):
            health.set(name, SERVING)
        ready = True
        log.info("ready")
        await stopping.wait()
    finally:
        health.stop_serving()
        await drain(server, port, settings.drain_s if ready else 0.0, encrypted=tls is not None)
        await probes.stop(None)
        stop_tracing()
        log.info("stopped")


def _on_signals(stopping: asyncio.Event) -> None:
    """Set `stopping` at the first signal; the second ends the process at once."""
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, _end_at_once)

    for number in SIGNALS:
        loop.add_signal_handler(number, stop)


def _end_at_once(number: int, _: FrameType | None) -> None:
    os._exit(128 + number)


async def drain(server: grpc.aio.Server, port: int, drain_s: float, *, encrypted: bool = False) -> None:
    """Answer calls until clients have moved to other connections, then stop."""
    end_s = monotonic() + drain_s
    if drain_s:
        log.info("draining for at most %g s", drain_s)
        sockets = ServerSockets(port, encrypted)
        sockets.stop_listening()
        while (left := sockets.send_goaways()) and monotonic() < end_s - drain_s * _LAST_SHARE:  # noqa: ASYNC110
            await asyncio.sleep(_LOOK_S)
        if left:
            log.warning("%d connections are still open; refusing their calls from now on", left)
    await server.stop(max(0.0, end_s - monotonic()))


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
        request_stop()


def request_stop() -> None:
    """Stop this process as SIGTERM does, from any thread; no effect where it stops already."""
    if signal.getsignal(signal.SIGTERM) is not _end_at_once:
        signal.raise_signal(signal.SIGTERM)


async def serve_health_alone(health: HealthService, settings: ProcessSettings) -> grpc.aio.Server:
    """A plain server of the health service alone, for probes that know no TLS (the kubelet's)."""
    server = edge.server([health.handler()], "grpcio")
    if settings.health_port:
        _listen(server, f"{settings.host}:{settings.health_port}")
        await server.start()
    return server


def _bind(server: grpc.aio.Server, settings: ProcessSettings, tls: grpc.ServerCredentials | None) -> int:
    return _listen(server, f"{settings.host}:{settings.port}", tls)


def _listen(server: grpc.aio.Server, address: str, tls: grpc.ServerCredentials | None = None) -> int:
    try:
        return server.add_secure_port(address, tls) if tls else server.add_insecure_port(address)
    except RuntimeError as error:
        raise OperatorError(f"cannot listen on {address}: {error}") from error


async def _warm_up(warm_up: Callable[[], Awaitable[None]] | None, stopping: asyncio.Event) -> None:
    """Run the warm-up. Raises StoppedInWarmUp if a signal came first, and what the warm-up raises."""
    if warm_up is None:
        return
    warming, stop = asyncio.ensure_future(warm_up()), asyncio.ensure_future(stopping.wait())
    await asyncio.wait((warming, stop), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    if not warming.done():
        warming.cancel()
        raise StoppedInWarmUp
    warming.result()
