"""The settings of the worker. Pure."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from encoders.clients import EncoderSettings
from encoders.image.signature import MODEL
from lookalike.errors import BadSettings
from lookalike.runtime.settings import ProcessSettings, setting
from lookalike.stream.settings import DEFAULT_GROUP, DEFAULT_PREFIX, StreamSettings
from pipeline.fetching.addresses import parse_networks
from pipeline.fetching.fetcher import FetchSettings
from pipeline.worker.worker import WorkerOptions


@dataclass(frozen=True, kw_only=True)
class WorkerSettings(ProcessSettings):
    """Settings of `lookalike serve worker`."""

    PREFIX: ClassVar[str] = "LOOKALIKE_WORKER_"

    stream: str = setting("", "redis://… of the stream of product events; required", secret=True)
    stream_prefix: str = setting(DEFAULT_PREFIX, "prefix of the stream's keys in Redis")
    stream_partitions: int = setting(
        0, "partitions of the stream; another number than it has is refused; 0: any", at_least=0, at_most=1024
    )
    group: str = setting(DEFAULT_GROUP, "consumer group; the workers of one share its events")
    name: str = setting("", "name of this worker in the group; empty: that of the machine")
    lease_s: float = setting(
        10.0, "after which the events of a worker that died go to others", at_least=0.1, at_most=3600
    )
    keep_s: float = setting(
        86400.0, "how long events are kept after all groups have read them", at_least=0, at_most=366 * 86400
    )
    trust_durability: bool = setting(False, "take a Redis that does not tell how it persists")
    gateway: str = setting("", "host:port of the gateway that makes the changes; required")
    api_key_file: str = setting(
        "", "file with the API key for the gateway, with the scopes read and write; read again when it changes"
    )
    model_server: str = setting("", "host:port of TF-Serving or the model server; empty: photos are not encoded")
    model: str = setting(MODEL, "name of the image model in TF-Serving")
    model_version: int = setting(
        0, "version of the image model to use; 0: the latest, or that of the label", at_least=0
    )
    model_label: str = setting("", "version label of the image model to use; empty: none")
    features: str = setting("", "directory or URL of the feature store; required with a model server")
    photos: tuple[str, ...] = setting((), "directories of photos that products state by their path")
    photo_stores: tuple[str, ...] = setting(("s3", "gs"), "object stores that photos are read from, by URL scheme")
    allow_networks: tuple[str, ...] = setting(
        (), "networks, beside all public addresses, that photos are fetched from: 10.1.0.0/16"
    )
    fetch_timeout_s: float = setting(20.0, "time for one photo to be fetched", at_least=0.1, at_most=600)
    fetch_inflight: int = setting(64, "photos fetched from the web at a time", at_least=1, at_most=4096)
    fetch_per_host: int = setting(8, "of them, those from one host", at_least=1, at_most=4096)
    image_threads: int = setting(2, "threads that decode photos", at_least=1, at_most=64)
    image_batch: int = setting(16, "most photos in one call to the model server", at_least=1, at_most=221)
    image_inflight: int = setting(2, "calls in flight to the model server", at_least=1, at_most=64)
    max_active: int = setting(256, "events that are fetched, encoded or written at a time", at_least=1, at_most=100_000)
    max_held: int = setting(20_000, "events in memory; beyond it no more are read", at_least=1, at_most=10_000_000)

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        for name in ("stream", "gateway"):
            if not getattr(self, name):
                raise BadSettings(f"{self.PREFIX}{name.upper()} (--{name}) is not set")
        if self.model_server and not self.features:
            raise BadSettings(f"{self.PREFIX}FEATURES (--features) is not set: where encoded photos are kept")
        self.fetch_settings()
        self.stream_settings()

    def worker_name(self) -> str:
        return self.name or socket.gethostname()

    def stream_settings(self) -> StreamSettings:
        return StreamSettings(
            url=self.stream,
            prefix=self.stream_prefix,
            partitions=self.stream_partitions,
            lease_s=self.lease_s,
            heartbeat_s=min(1.0, self.lease_s / 4),
            trust_durability=self.trust_durability,
        )

    def fetch_settings(self) -> FetchSettings:
        return FetchSettings(
            directories=[Path(each) for each in self.photos],
            stores=self.photo_stores,
            allow_networks=parse_networks(",".join(self.allow_networks)),
            timeout_s=self.fetch_timeout_s,
            max_in_flight=self.fetch_inflight,
            per_host=self.fetch_per_host,
        )

    def encoder_settings(self) -> EncoderSettings:
        return EncoderSettings(
            model_server=self.model_server,
            model=self.model,
            model_version=self.model_version,
            model_label=self.model_label,
            image_threads=self.image_threads,
            image_batch=self.image_batch,
            image_in_flight=self.image_inflight,
            timeout_s=30.0,
            max_waiting=self.max_active,
        )

    def worker_options(self) -> WorkerOptions:
        return WorkerOptions(max_active=self.max_active, max_held=self.max_held, drain_s=self.drain_s)
