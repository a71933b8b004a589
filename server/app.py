"""The gateway process: builds its parts and serves them. I/O: gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import grpc

from encoders.clients import Encoders
from lookalike.access.followed_keys import guarding
from lookalike.access.open_store import open_key_store
from lookalike.errors import BadSettings
from lookalike.releases.location import Location, open_location
from lookalike.runtime import edge, lifecycle, security, telemetry
from lookalike.runtime.line_file import LineFile
from lookalike.runtime.settings import load
from lookalike.runtime.slow_log import slow_log
from lookalike.stream.redis_stream import open_redis_stream
from lookalike.v1 import admin_pb2, catalog_pb2, search_pb2
from server import batch, changes
from server.admin import AdminService
from server.admin_keys import Keys
from server.admin_releases import Releases
from server.admission import Admission, StreamHandler, UnaryHandler
from server.audit_log import AuditLog
from server.audited_admin import audit_admin
from server.audited_changes import audit_changes
from server.batch import BatchSearcher
from server.catalog import CatalogReader
from server.change_encoding import ChangeEncoder
from server.changes import CatalogWriter
from server.classify import ClassifyHandler
from server.enqueue import Enqueuer
from server.handover import HandoverRunner
from server.key_limits import KeyLimits
from server.online_recall import OnlineRecall
from server.open_streams import OpenStreams
from server.policy import AutoPolicy
from server.query_parser import QueryParser
from server.redis_result_cache import RedisResultCache
from server.replicated_shard import ReplicatedShard
from server.result_cache import MemoryResultCache, RequestKeys, ResultCache
from server.search import Searcher
from server.settings import GatewaySettings, ServiceSettings
from server.shard_group import ShardGroup
from server.shard_transport import ShardTransport
from server.single_flight import SingleFlight
from server.stream import SearchStreamer
from server.version_watch import VersionWatch
from server.write_stream import WriteStreamer

SEARCH = search_pb2.DESCRIPTOR.services_by_name["SimilarProducts"]
CATALOG = catalog_pb2.DESCRIPTOR.services_by_name["Catalog"]
ADMIN = admin_pb2.DESCRIPTOR.services_by_name["Admin"]
SERVICES = (SEARCH.full_name, CATALOG.full_name, ADMIN.full_name)


def main(argv: Sequence[str], environ: Mapping[str, str]) -> None:
    settings = load(
        GatewaySettings,
        environ,
        argv,
        description="The gateway: answers Search and Catalog calls from shards and encoders.\n\nexample:\n"
        "  lookalike serve gateway --shards 127.0.0.1:7000,127.0.0.1:7001 --model-server 127.0.0.1:8500 \\\n"
        "      --text-encoder 127.0.0.1:7100 --redis redis://127.0.0.1:6379 --metrics-port 9090",
    )
    if not settings.shards:
        raise BadSettings("LOOKALIKE_GATEWAY_SHARDS (--shards) is empty: name the address of every shard, in order")
    telemetry.configure_process_logging(settings)
    security.use_outgoing_tls(settings)
    lifecycle.run(serve(settings))


@dataclass(frozen=True, slots=True)
class Gateway:
    """The parts of a gateway that run or have to be closed, and its gRPC handlers."""

    shards: ShardGroup
    versions: VersionWatch
    handovers: HandoverRunner
    encoders: Encoders
    cache: ResultCache | None
    enqueuer: Enqueuer
    audit: AuditLog | None
    admin_keys: Keys | None
    recall: OnlineRecall
    open_streams: OpenStreams
    callers: KeyLimits
    handlers: tuple[grpc.GenericRpcHandler, ...]

    async def close(self) -> None:
        await self.handovers.close()
        await self.recall.close()
        await asyncio.gather(self.shards.close(), self.encoders.close(), self.enqueuer.close())
        if self.cache is not None:
            await self.cache.close()
        if self.audit is not None:
            self.audit.close()
        if self.admin_keys is not None:
            self.admin_keys.close()


def build_gateway(
    settings: ServiceSettings,
    transports: Sequence[ShardTransport],
    releases: Location | None = None,
    stop: Callable[[], None] = lifecycle.request_stop,
) -> Gateway:
    """Build all parts of a gateway of these shards, in the order of their ordinals; nothing is connected yet.

    releases, stop: for Admin, the location of the releases, and what begins what SIGTERM begins.
    """
    shards, encoders, cache = ShardGroup(transports, settings), Encoders(settings.encoders()), _result_cache(settings)
    handovers = HandoverRunner(transports)
    versions = VersionWatch(shards, encoders, handovers, settings.refresh_s)
    deadline_s = settings.default_deadline_s
    policy = AutoPolicy.parse(settings.auto_policy, photo=settings.auto_photo, text=settings.auto_text)
    keys = RequestKeys(policy.text)
    recall = OnlineRecall(versions, shards, share=settings.recall_sample, cpu_share=settings.recall_cpu_share)
    callers = KeyLimits()
    searcher = Searcher(
        versions,
        shards,
        encoders,
        cache,
        keys,
        QueryParser(),
        policy,
        deadline_s,
        settings.cache_staleness_s,
        SingleFlight(),
        recall,
        callers,
        slow_log(settings.slow_query_s),
    )
    classifier = ClassifyHandler(versions, shards, encoders, deadline_s, callers)
    reader = CatalogReader(versions, shards, deadline_s)
    writer = CatalogWriter(versions, shards, ChangeEncoder(encoders, callers), deadline_s, settings.revision_unit)
    audit = _audit_log(settings)
    # They admit each of their searches and batches.
    open_streams = OpenStreams(settings.max_streams, callers)
    enqueuer = Enqueuer(
        partial(open_redis_stream, settings.stream_settings()) if settings.stream else None,
        open_streams,
        group=settings.stream_group,
        deadline_s=deadline_s,
        revision_unit=settings.revision_unit,
    )
    search: Mapping[str, UnaryHandler] = {
        "Search": searcher.search,
        "BatchSearch": BatchSearcher(searcher).batch_search,
        "FindDuplicates": searcher.find_duplicates,
        "Classify": classifier.classify,
    }
    catalog: Mapping[str, UnaryHandler] = {
        "Get": reader.get,
        "Exists": reader.exists,
        "Count": reader.count,
        "Upsert": writer.upsert,
        "Patch": writer.patch,
        "Remove": writer.remove,
        "BatchWrite": writer.batch_write,
        "RemoveWhere": writer.remove_where,
        "Enqueue": enqueuer.enqueue,
    }
    catalog_streams: Mapping[str, StreamHandler] = {"List": open_streams.replying(reader.list)}
    at_once = {"Search": partial(searcher.search_memory, cache)} if isinstance(cache, MemoryResultCache) else {}
    admission = Admission(settings.max_inflight, settings.min_inflight, settings.max_inflight_bytes, callers)
    search_streams: Mapping[str, edge.Bidirectional] = {
        "SearchStream": SearchStreamer(searcher, admission, open_streams).search_stream
    }
    write_streams: Mapping[str, edge.Bidirectional] = {
        "Write": WriteStreamer(writer, admission, open_streams, audit).write
    }
    search_methods = admission.admit(
        search, calls={"BatchSearch": batch.calls_of}, at_once=at_once, measured={"Search", "FindDuplicates"}
    )
    catalog_methods = admission.admit(
        catalog,
        streams=catalog_streams,
        calls={"BatchWrite": changes.calls_of},
        items=dict.fromkeys(("BatchWrite", "Enqueue"), changes.count_of),
    )
    if audit is not None:
        catalog_methods = audit_changes(audit, catalog_methods)
    keys_of_admin = Keys(open_key_store(settings.keys)) if settings.keys else None
    admin = AdminService(
        versions,
        shards,
        transports=transports,
        encoders=encoders,
        cache=cache,
        releases=None if releases is None else Releases(releases),
        keys=keys_of_admin,
        enabled=settings.admin,
        default_deadline_s=deadline_s,
        drain_s=settings.drain_s,
        stop=stop,
    )
    admin_methods = admin.methods() if audit is None else audit_admin(audit, admin.methods())
    stall_s = settings.stream_stall_s
    handlers = (
        edge.handler(SEARCH, {**search_methods, **search_streams}, take_bytes={"Search"}, stall_s=stall_s),
        edge.handler(ADMIN, admin_methods),
        edge.handler(CATALOG, {**catalog_methods, **write_streams, "Wait": enqueuer.wait}, stall_s=stall_s),
    )
    return Gateway(
        shards,
        versions,
        handovers,
        encoders,
        cache,
        enqueuer,
        audit,
        keys_of_admin,
        recall,
        open_streams,
        callers,
        handlers,
    )


async def serve(settings: GatewaySettings) -> None:
    """Serve until a signal ends it; ready once all shards serve one version, or enough do after a while."""
    releases = open_location(settings.releases, settings.releases_options) if settings.releases else None
    gateway = build_gateway(settings, build_shards(settings), releases)
    ready = partial(gateway.versions.until_ready, settings.ready_wait_s, settings.ready_coverage)
    try:
        await gateway.enqueuer.start()
        async with (
            guarding(
                settings.keys, settings.keys_max_age_s, gateway.open_streams.renew, gateway.callers.check_open
            ) as guard,
            lifecycle.background_task(gateway.versions.keep_fresh()),
        ):
            await lifecycle.serve(
                settings, gateway.handlers, services=SERVICES, warm_up=ready, freeze=True, guard=guard
            )
    finally:
        await gateway.close()


def build_shards(settings: GatewaySettings) -> list[ShardTransport]:
    """The shards that the settings name, in the order of their ordinals."""
    return [ReplicatedShard(i, addresses, settings) for i, addresses in enumerate(settings.replicas())]


def _result_cache(settings: ServiceSettings) -> ResultCache | None:
    if not settings.cache_ttl_s:
        return None
    if settings.redis:
        return RedisResultCache(
            settings.redis,
            ttl_s=settings.cache_ttl_s,
            timeout_s=settings.cache_timeout_s,
            prefix=settings.redis_prefix,
        )
    if not settings.cache_memory_bytes:
        return None
    return MemoryResultCache(max_bytes=settings.cache_memory_bytes, ttl_s=settings.cache_ttl_s)


def _audit_log(settings: ServiceSettings) -> AuditLog | None:
    if settings.audit_log is None:
        return None
    file = LineFile(settings.audit_log, max_bytes=settings.audit_bytes, files=settings.audit_files)
    return AuditLog(file, "refuse" if settings.audit_full == "refuse" else "continue")
