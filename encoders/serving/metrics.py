"""Prometheus metrics of the model server. Labels are bounded: methods, codes, and models and versions served."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from lookalike.runtime import telemetry

_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("lookalike_model_requests_total", "Requests handled.", ("method", "model_name", "version", "code"))
REQUEST_SECONDS = Histogram(
    "lookalike_model_request_seconds", "Time from request to response.", ("method",), buckets=telemetry.SECONDS_BUCKETS
)
BATCH_IMAGES = Histogram("lookalike_model_batch_images", "Images per model run.", buckets=_IMAGES)
BATCH_SECONDS = Histogram("lookalike_model_batch_seconds", "Time of one model run.", buckets=telemetry.SECONDS_BUCKETS)
QUEUE_SECONDS = Histogram(
    "lookalike_model_queue_seconds",
    "Time from request to the start of its model run.",
    buckets=telemetry.SECONDS_BUCKETS,
)
QUEUED_IMAGES = Gauge("lookalike_model_queued_images", "Images waiting for a model run.", ("model_name", "version"))
VERSION_STATE = Gauge(
    "lookalike_model_version_state",
    "10 start, 20 loading, 30 available, 40 unloading, 50 end; as in GetModelStatus.",
    ("model_name", "version"),
)
LOADS = Counter(
    "lookalike_model_loads_total", "Attempts to load a version, by outcome: loaded, failed.", ("model_name", "outcome")
)
