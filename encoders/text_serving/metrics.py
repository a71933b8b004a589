"""The metrics of the text encoder process. Declarations, and what a rollout reports to them."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from encoders.text_serving.encoder_set import EncoderSet
from lookalike.releases.served_versions import VersionHandle
from lookalike.runtime.telemetry import SECONDS_BUCKETS

_BATCH = (1, 2, 4, 8, 16, 32, 64, 256)

BATCH_TEXTS = Histogram("lookalike_text_batch_texts", "Texts per batch.", buckets=_BATCH)
BATCH_SECONDS = Histogram("lookalike_text_batch_seconds", "Time to encode one batch.", buckets=SECONDS_BUCKETS)
BATCH_PRODUCTS = Histogram("lookalike_product_batch_products", "Products fused or classified together.", buckets=_BATCH)

VERSIONS = Gauge(
    "lookalike_text_encoder_versions", "Versions whose encoders are loaded: two while one replaces the other."
)
LOAD_SECONDS = Histogram(
    "lookalike_text_encoder_load_seconds",
    "Time to fetch, verify, load and warm up the encoders of a version.",
    buckets=(0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
ROLLOUT_FAILURES = Counter(
    "lookalike_text_encoder_rollout_failures", "Failures to read CURRENT, or to load the encoders of a version."
)


class EncoderRolloutMetrics:
    """The metrics of the rollout of encoders."""

    def loaded(self, handle: VersionHandle[EncoderSet], seconds: float) -> None:
        LOAD_SECONDS.observe(seconds)

    def served(self, handle: VersionHandle[EncoderSet], versions: int) -> None:
        VERSIONS.set(versions)

    def dropped(self, versions: int) -> None:
        VERSIONS.set(versions)

    def failed(self) -> None:
        ROLLOUT_FAILURES.inc()
