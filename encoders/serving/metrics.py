"""What the model server counts. Labels are bounded: methods, codes, and models and versions that were served."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from lookalike.runtime import telemetry

_IMAGES = (1, 2, 4, 8, 16, 32, 64, 128, 256)

REQUESTS = Counter("lookalike_model_requests_total", "Requests answered.", ("method", "model_name", "version", "code"))
REQUEST_SECONDS = Histogram(
    "lookalike_model_request_seconds", "From request to answer.", ("method",), buckets=telemetry.SECONDS_BUCKETS
)
BATCH_IMAGES = Histogram("lookalike_model_batch_images", "Images in one run of the model.", buckets=_IMAGES)
BATCH_SECONDS = Histogram("lookalike_model_batch_seconds", "One run of the model.", buckets=telemetry.SECONDS_BUCKETS)
QUEUE_SECONDS = Histogram(
    "lookalike_model_queue_seconds", "From request to a thread of the model.", buckets=telemetry.SECONDS_BUCKETS
)
QUEUED_IMAGES = Gauge("lookalike_model_queued_images", "Images that wait for a thread.", ("model_name", "version"))
VERSION_STATE = Gauge(
    "lookalike_model_version_state",
    "10 start, 20 loading, 30 available, 40 unloading, 50 end; as GetModelStatus.",
    ("model_name", "version"),
)
LOADS = Counter("lookalike_model_loads_total", "Versions loaded, or not.", ("model_name", "outcome"))
