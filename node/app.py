"""The command `lookalike serve node`: a gateway and all shards of an index in one process. I/O: gRPC, mapped files."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from index.serving.shard import RunningShard, open_shards
from lookalike.access.followed_keys import guarding
from lookalike.releases.settings import open_index_location
from lookalike.runtime import lifecycle, security, telemetry
from lookalike.runtime.settings import load
from node.local_shard import LocalShard
from node.settings import NodeSettings
from server.app import SERVICES, Gateway, build_gateway

log = logging.getLogger(__name__)

DESCRIPTION = """A gateway and all shards of an index in one process: on one machine, searches cross no second network.

It takes the settings of a gateway and those of a shard. Each shard follows CURRENT as a shard process does; a
version may have another number of shards, up to --max-shards.

  lookalike serve node --location index --port 50051 --metrics-port 9090
  lookalike serve node --location index --live-dir changes --text-encoder 127.0.0.1:7100"""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    settings = load(NodeSettings, environ, argv, description=DESCRIPTION)
    telemetry.configure_process_logging(settings)
    security.use_outgoing_tls(settings)
    lifecycle.run(serve(settings))
    return 0


async def serve(settings: NodeSettings) -> None:
    """Serve until a signal ends it; ready once every shard has loaded and warmed up its version."""
    async with open_node(settings) as (gateway, shards):
        await gateway.enqueuer.start()

        async def warm_up() -> None:
            await asyncio.gather(*(shard.rollout.start() for shard in shards))
            await gateway.versions.refresh()
            await gateway.versions.until_complete()

        async with AsyncExitStack() as background:
            for shard in shards:
                await background.enter_async_context(lifecycle.background_task(shard.rollout.watch(settings.poll_s)))
            await background.enter_async_context(lifecycle.background_task(gateway.versions.keep_fresh()))
            guard = await background.enter_async_context(
                guarding(settings.keys, settings.keys_max_age_s, gateway.open_streams.renew, gateway.callers.check_open)
            )
            await lifecycle.serve(
                settings, gateway.handlers, services=SERVICES, warm_up=warm_up, freeze=True, guard=guard
            )


@asynccontextmanager
async def open_node(settings: NodeSettings) -> AsyncIterator[tuple[Gateway, list[RunningShard]]]:
    """The parts of a node, which shares nothing with another: no version is loaded, and nothing is served yet."""
    location = open_index_location(settings)
    manifest = location.read_manifest(settings.version or location.current())
    count = max(manifest.shards, settings.max_shards)  # Those that a version does not have are idle.
    with open_shards(settings, range(count), max_shards=count) as shards:
        transports = [LocalShard(number, shard.service) for number, shard in enumerate(shards)]
        gateway = build_gateway(settings, transports, location)
        try:
            yield gateway, shards
        finally:
            await gateway.close()
