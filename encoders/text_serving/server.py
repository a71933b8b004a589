"""The text encoder process, `lookalike serve text-encoder`: serves the encoders of the versions that CURRENT names."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack

from threadpoolctl import threadpool_limits

from encoders.text_serving import product_service, text_service
from encoders.text_serving.encoder_set import EncoderSet, served_encoders
from encoders.text_serving.encoder_thread import EncoderThread
from encoders.text_serving.loader import EncoderLoader, load_artifacts
from encoders.text_serving.metrics import EncoderRolloutMetrics
from encoders.text_serving.product_service import ProductEncoderService
from encoders.text_serving.settings import TextEncoderSettings
from encoders.text_serving.text_service import TextEncoderService
from lookalike.releases.canary import Canary
from lookalike.releases.rollout import Rollout
from lookalike.releases.served_versions import VersionHandle
from lookalike.releases.settings import file_pinner, open_index_location
from lookalike.runtime import edge, lifecycle, security, telemetry
from lookalike.runtime.settings import load

DESCRIPTION = """The text encoder and the product encoder that the index was built with, for gateways.

When CURRENT names another version, its encoders are loaded and served beside the old ones, which are dropped when no
gateway uses them any more. If they cannot be loaded, the reason is logged and the old ones serve on.

  lookalike serve text-encoder --location index --port 7100
  lookalike serve text-encoder --artifact texts/hybrid-3f9a0c17d2b4     (one encoder, whatever the index has)"""

Load = Callable[[str], VersionHandle[EncoderSet]]


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    settings = load(TextEncoderSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_process_logging(settings)
    security.use_outgoing_tls(settings)
    lifecycle.run(serve(settings))


async def serve(settings: TextEncoderSettings) -> None:
    """Serve until SIGTERM. Raises BadArtifact if no version can be loaded at the start."""
    # Encoding a title multiplies small matrices: more threads cost ten times the CPU and save no time.
    threadpool_limits(1, "blas")
    served, thread, stopping = served_encoders(settings.lease_s), EncoderThread(settings.max_waiting), threading.Event()
    read_target, read_canary, load_version = _source(settings, stopping.is_set)
    rollout = Rollout(
        served,
        read_target=read_target,
        read_canary=read_canary,
        load=load_version,
        clock=served.clock,
        retry_s=settings.poll_s,
        metrics=EncoderRolloutMetrics(),
    )
    handlers = [
        edge.handler(text_service.SERVICE, TextEncoderService(served, thread, settings.max_batch).methods()),
        edge.handler(product_service.SERVICE, ProductEncoderService(served, thread).methods()),
    ]
    services = (text_service.SERVICE.full_name, product_service.SERVICE.full_name)
    with ExitStack() as on_exit:
        on_exit.callback(thread.close)
        on_exit.callback(rollout.close)
        on_exit.callback(stopping.set)
        async with lifecycle.background_task(rollout.watch(settings.poll_s)):
            await lifecycle.serve(settings, handlers, services=services, warm_up=rollout.start, freeze=True)


def _source(
    settings: TextEncoderSettings, is_stopping: Callable[[], bool]
) -> tuple[Callable[[], str], Callable[[], Canary | None] | None, Load]:
    """The version to serve, by name, one beside it, and what loads them. Raises BadSettings."""
    if (artifact := settings.artifact) is not None:
        # As if they were those of one version, without a name.
        return str, None, lambda name: VersionHandle(name, load_artifacts(artifact, settings.product_artifact))
    location = open_index_location(settings)
    loader = EncoderLoader(location, file_pinner(location, settings, is_stopping))
    if settings.version:
        return lambda: settings.version, None, loader
    return location.current, location.canary, loader
