"""The worker's metrics. No I/O of its own."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

EVENTS = Counter(
    "lookalike_worker_events_total",
    "Events that are done with: applied, stale (a newer revision won), dead (a dead letter), lost (to another worker).",
    ["outcome"],
)
RETRIES = Counter("lookalike_worker_retries_total", "Attempts that failed and are repeated, by cause.", ["cause"])
PHOTOS = Counter(
    "lookalike_worker_photos_total",
    "Photos by what was done: unchanged (not fetched), known (fetched, not encoded), encoded, unusable.",
    ["outcome"],
)
HELD = Gauge("lookalike_worker_held_events", "Events in memory.")
PARTITIONS = Gauge("lookalike_worker_partitions", "Partitions that this worker reads.")
FRESHNESS = Histogram(
    "lookalike_worker_freshness_seconds",
    "From when an event was published until its change was searchable.",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 1800.0, 7200.0, 43200.0),
)
LAG = Gauge("lookalike_stream_lag_events", "Events of the stream that are not acked.")
OLDEST = Gauge("lookalike_stream_oldest_seconds", "Age of the oldest event that is not acked.")
DEAD_LETTERS = Gauge("lookalike_stream_dead_letters", "Dead letters of the stream.")
