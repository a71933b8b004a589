"""The settings of the gateway. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from encoders.clients import EncoderSettings
from lookalike.errors import BadSettings
from lookalike.product_rules import DEFAULT_REVISION_UNIT, REVISION_UNITS
from lookalike.runtime.settings import ProcessSettings, setting
from lookalike.stream.settings import DEFAULT_GROUP, DEFAULT_PREFIX, StreamSettings
from server.policy import AutoPolicy


@dataclass(frozen=True, kw_only=True)
class ServiceSettings(ProcessSettings):
    """How searches and catalogue calls are answered, wherever the shards are."""

    port: int = setting(50051, "gRPC port; 0: any free one, printed at start", at_least=0, at_most=65535)
    model_server: str = setting("", "host:port of TF-Serving or the model server; empty: no photo queries")
    model: str = setting("mobilenet", "name of the image model in TF-Serving")
    model_version: int = setting(
        0, "version of the image model to use; 0: the latest, or that of the label", at_least=0
    )
    model_label: str = setting("", "version label of the image model to use; empty: none")
    # With one server, two or four connections were no faster than one (8 calls of 1 or 16 photos in flight, loopback).
    # Behind a load balancer that balances connections, several connections reach several servers.
    model_server_connections: int = setting(1, "HTTP/2 connections to the model server", at_least=1, at_most=64)
    text_encoder: tuple[str, ...] = setting(
        (),
        "host:port of the text and product encoders; a name of several addresses, or several, are replicas; empty: no "
        "text queries",
    )
    redis: str = setting("", "redis://… of the result cache; empty: a cache in this process's memory", secret=True)
    audit_log: Path | None = setting(None, "file for who changed what, of this process alone; empty: none")  # noqa: RUF009  # as above
    audit_full: str = setting(
        "refuse",
        "where the audit log cannot be written: refuse changes, or continue and say how many lines are lost",
        choices=("refuse", "continue"),
    )
    audit_bytes: int = setting(
        64 << 20, "size of a file of the audit log, after which the next one is begun", at_least=1 << 12
    )
    audit_files: int = setting(
        10, "files of the audit log; the oldest is removed for a new one", at_least=1, at_most=10_000
    )
    redis_prefix: str = setting(
        "lookalike", "of the cache's keys in Redis; catalogues that share a Redis have one of their own each"
    )
    admin: bool = setting(
        False,
        "answer Admin, which says what is served, changes it and stops the process: where nobody else reaches the "
        "port, or every call needs a key",
    )
    keys: str = setting(
        "",
        "file, or redis://…, of the API keys (`lookalike keys`); every call needs one of them; empty: none does",
        secret=True,
    )
    keys_max_age_s: float = setting(
        86400.0,
        "while the keys cannot be read, those known are accepted for so long, and revoked ones too; then UNAVAILABLE",
        at_least=1,
        at_most=365 * 86400,
    )
    cache_ttl_s: float = setting(3600.0, "time to live of a cached answer; 0: no cache", at_least=0, at_most=7 * 86400)
    cache_staleness_s: float = setting(
        10.0,
        "age up to which a cached answer is used that may lack a product which was added or changed since; 0: none is",
        at_least=0,
        at_most=7 * 86400,
    )
    cache_timeout_s: float = setting(
        0.05, "time-out of one call to Redis; after it the answer is computed", at_least=0.001, at_most=5
    )
    cache_memory_bytes: int = setting(
        64 << 20, "memory of the in-process cache; beyond it the least recently used answer is evicted", at_least=0
    )
    stream: str = setting(
        "", "redis://… of the stream of product events, of a Redis that persists; empty: no Enqueue", secret=True
    )
    stream_prefix: str = setting(DEFAULT_PREFIX, "of the stream's keys in Redis")
    stream_group: str = setting(DEFAULT_GROUP, "of the workers whose acks Wait waits for")
    stream_max_events: int = setting(
        StreamSettings.max_events,
        "events that the stream may keep, dead letters included; beyond it RESOURCE_EXHAUSTED",
        at_least=1,
    )
    trust_durability: bool = setting(
        False, "use a stream whose Redis does not tell, or not say, that it keeps what it is given"
    )
    auto_policy: tuple[str, ...] = setting(
        ("fashion=product>image", "*=product>text"),
        "spaces of AUTO by category, category=space>space: the first that is built and in which the product has a "
        "vector; the longest matching category wins, * is every other one",
    )
    # A photo, or a text, finds more of its category in the product space than in its own: docs/quality.md.
    auto_photo: str = setting("product>image", "spaces of AUTO for photos only, space>space: the first that is built")
    auto_text: str = setting(
        "measured>product>text",
        "spaces of AUTO for texts only, space>space: the first that is built; measured: those, with their shares, that "
        "the update found best for short queries",
    )
    max_inflight: int = setting(
        512,
        "requests in flight, fewer while searches wait, and at most half as many that shards find costly; beyond it "
        "RESOURCE_EXHAUSTED",
        at_least=1,
        at_most=65536,
    )
    min_inflight: int = setting(
        128,
        "requests in flight that are admitted however long searches take; where it is no less than max_inflight, that "
        "is the limit",
        at_least=8,
        at_most=65536,
    )
    max_inflight_bytes: int = setting(
        256 << 20,
        "bytes of the requests in flight, which take about three times as much memory; beyond it RESOURCE_EXHAUSTED",
        at_least=1 << 20,
    )
    stream_stall_s: float = setting(
        60.0, "time after which a stream whose caller reads nothing is ended", at_least=0.1, at_most=86400
    )
    max_streams: int = setting(
        256, "open streams, of searches and of changes; beyond it RESOURCE_EXHAUSTED", at_least=0, at_most=65536
    )
    default_deadline_s: float = setting(5.0, "deadline of a request that has none", at_least=0.01, at_most=600)
    shard_timeout_s: float = setting(
        2.0, "time-out of a call to a shard; after it the answer is partial, and says so", at_least=0.001, at_most=600
    )
    # One batch at a time cost a fifth to a third less CPU per query than two, with 16 and 64 queries in flight over two
    # shards: an RPC costs a process 0.3 ms whatever it carries, so fewer and larger ones win.
    shard_inflight: int = setting(
        1,
        "batches in flight per shard; queries that arrive meanwhile are sent together in the next",
        at_least=1,
        at_most=64,
    )
    shard_batch: int = setting(
        64, "most queries in one batch to a shard; fewer if they request many hits", at_least=1, at_most=256
    )
    revision_unit: str = setting(
        DEFAULT_REVISION_UNIT,
        f"unit of the catalogue's revisions, times since 1970: {', '.join(REVISION_UNITS)}; none: they are no times. A "
        "change whose revision is more than a day ahead of now is refused",
    )
    recall_sample: float = setting(
        0.05,
        "share of the searches of an ANN index that are compared with exact ones, in the background; 0: none",
        at_least=0,
        at_most=1,
    )
    recall_cpu_share: float = setting(
        0.01,
        "CPU of these exact searches on all shards, in cores; beyond it samples are dropped; 0: there are none",
        at_least=0,
        at_most=16,
    )
    slow_query_s: float = setting(
        0.0, "time from which searches are logged with where it went, at most ten a second; 0: none", at_least=0
    )
    refresh_s: float = setting(
        1.0, "interval at which the shards are polled for their versions", at_least=0.05, at_most=60
    )
    # With one call at a time instead of two, and 16 photos in flight, batches are of 7 photos instead of 4, and a query
    # costs 3-4 % less CPU: the model server runs one batch at a time, and a larger one costs less per photo.
    image_inflight: int = setting(
        1,
        "calls in flight to the model server; photos that arrive meanwhile are sent together in the next; with several "
        "model servers, as many as there are",
        at_least=1,
        at_most=64,
    )
    image_batch: int = setting(16, "most photos in one call to the model server", at_least=1, at_most=221)
    image_threads: int = setting(2, "threads that decode photos", at_least=1, at_most=64)
    text_batch: int = setting(64, "most texts in one call to the text encoder", at_least=1, at_most=1024)

    def checks_callers(self) -> bool:
        """Whether calls are refused for who makes them."""
        return bool(self.keys) or super().checks_callers()

    def encoders(self) -> EncoderSettings:
        return EncoderSettings(
            model_server=self.model_server,
            model=self.model,
            model_version=self.model_version,
            model_label=self.model_label,
            model_server_connections=self.model_server_connections,
            image_threads=self.image_threads,
            image_batch=self.image_batch,
            image_in_flight=self.image_inflight,
            text_encoders=self.text_encoder,
            text_batch=self.text_batch,
            timeout_s=self.default_deadline_s,
            max_waiting=self.max_inflight,
        )

    def __post_init__(self) -> None:
        """Raises BadSettings for what the bounds of single settings do not cover."""
        AutoPolicy.parse(self.auto_policy, photo=self.auto_photo, text=self.auto_text)
        if self.revision_unit not in REVISION_UNITS:
            raise BadSettings(f"revision_unit={self.revision_unit}: expected one of {', '.join(REVISION_UNITS)}")
        if self.model_version and self.model_label:
            raise BadSettings(
                f"model_version={self.model_version}, model_label={self.model_label}: set at most one of them"
            )

    def stream_settings(self) -> StreamSettings:
        return StreamSettings(
            url=self.stream,
            prefix=self.stream_prefix,
            max_events=self.stream_max_events,
            trust_durability=self.trust_durability,
        )


@dataclass(frozen=True, kw_only=True)
class GatewaySettings(ServiceSettings):
    """A gateway, whose shards are other processes."""

    PREFIX: ClassVar[str] = "LOOKALIKE_GATEWAY_"

    shards: tuple[str, ...] = setting(
        (),
        "addresses of the shards, host:port, in the order of their ordinals; those of the replicas of one shard are "
        "joined by +; a name of several addresses has as many replicas",
    )
    # A probe is answered in milliseconds by a shard that works, whatever it works on.
    shard_hang_s: float = setting(
        0.5,
        "a replica that answers nothing for so long, not even a probe, is not asked until it answers one",
        at_least=0.1,
        at_most=60,
    )
    hedge_share: float = setting(
        0.05,
        "share of the reads that are sent to a second replica, when the first is slower than 95 % are; 0: none",
        at_least=0,
        at_most=1,
    )
    write_quorum: int = setting(
        1,
        "replicas of a shard that must have made a change; if fewer are in service: UNAVAILABLE",
        at_least=1,
        at_most=16,
    )
    releases: str = setting(
        "", "for Admin: where the releases are, a directory or a URL (s3://…); empty: it cannot change what serves"
    )
    releases_options: str = setting("", "options of the URL's fsspec filesystem as a JSON object", secret=True)
    ready_wait_s: float = setting(
        10.0, "after its start, time in which the gateway is ready only with all shards", at_least=0, at_most=3600
    )
    ready_coverage: float = setting(0.5, "share of the shards with which it is ready then", at_least=0, at_most=1)

    def replicas(self) -> list[tuple[str, ...]]:
        """Of each shard, the addresses of its replicas."""
        return [tuple(part.strip() for part in shard.split("+")) for shard in self.shards]

    def __post_init__(self) -> None:
        ServiceSettings.__post_init__(self)
        seen = dict[str, int]()
        for ordinal, addresses in enumerate(self.replicas()):
            if len(addresses) < self.write_quorum and not any(map(_is_name, addresses)):
                raise BadSettings(f"write_quorum={self.write_quorum}: shard {ordinal} has {len(addresses)} replicas")
            for address in addresses:
                _check_address(address, self.shards[ordinal])
                if address in seen:
                    raise BadSettings(f"shards: {address} is given for shard {seen[address]} and for shard {ordinal}")
                seen[address] = ordinal


def _check_address(address: str, entry: str) -> None:
    host, _, port = address.rpartition(":")
    if not address:
        raise BadSettings(f"shards: {entry!r} has an empty address: join those of replicas by one +")
    if not host or not port.isdecimal() or not 0 < int(port) < 1 << 16:
        raise BadSettings(f"shards: {address!r} in {entry!r}: expected host:port")


def _is_name(address: str) -> bool:
    """Whether the host may have several addresses."""
    host = address.rpartition(":")[0]
    return not host.startswith("[") and not host.replace(".", "").isdecimal()
