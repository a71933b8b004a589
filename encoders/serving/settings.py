"""The model server's settings: those of TensorFlow-Serving have its names."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from encoders.image.signature import MODEL
from encoders.serving.batching import BatchingParameters
from encoders.serving.model import ModelConfig
from encoders.serving.policy import parse_labels, parse_policy
from lookalike.errors import BadSettings
from lookalike.runtime.settings import ProcessSettings, setting


@dataclass(frozen=True, kw_only=True)
class ModelServerSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_MODEL_SERVER_"

    models: Path = setting(Path("models"), "the model is MODELS/mobilenet/<version>")  # noqa: RUF009  # a field, no value
    model_version_policy: str = setting("latest:1", "versions to serve: latest:N, all or specific:N,N,…")
    version_labels: tuple[str, ...] = setting((), "names of versions, LABEL=VERSION; each must be served")
    file_system_poll_wait_seconds: float = setting(
        1.0, "how often MODELS is looked at for new versions; 0: once", at_least=0, at_most=86_400
    )
    # The largest message holds 221 images: a request of any number that can be sent is taken, and run in slices.
    max_batch_size: int = setting(256, "most images in one request; more: INVALID_ARGUMENT", at_least=1, at_most=4096)
    batch_timeout_micros: int = setting(
        0, "how long a batch waits for more to fill it; 0: until a thread is free", at_least=0, at_most=10_000_000
    )
    max_enqueued_batches: int = setting(
        32, "batches that may wait; beyond it: UNAVAILABLE, the queue is full", at_least=1, at_most=100_000
    )
    num_batch_threads: int = setting(1, "runs of the model side by side", at_least=1, at_most=256)
    enable_large_batch_splitting: bool = setting(True, "run large requests in slices of max_execution_batch_size")
    max_execution_batch_size: int = setting(
        16, "most images in one run of the model, where requests are split; 0: max_batch_size", at_least=0, at_most=4096
    )
    allowed_batch_sizes: tuple[str, ...] = setting((), "sizes to which batches are padded, increasing; empty: any size")
    intra_op_threads: int = setting(0, "threads within one operation; 0: as many as cores", at_least=0, at_most=1024)
    inter_op_threads: int = setting(0, "operations side by side; 0: as many as cores", at_least=0, at_most=1024)

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        model_config(self)
        batching_parameters(self)


def batching_parameters(settings: ModelServerSettings) -> BatchingParameters:
    """Raises BadSettings."""
    try:
        sizes = tuple(map(int, settings.allowed_batch_sizes))
    except ValueError:
        raise BadSettings(f"allowed_batch_sizes={','.join(settings.allowed_batch_sizes)}: not whole numbers") from None
    return BatchingParameters(
        max_batch_size=settings.max_batch_size,
        batch_timeout_micros=settings.batch_timeout_micros,
        max_enqueued_batches=settings.max_enqueued_batches,
        num_batch_threads=settings.num_batch_threads,
        enable_large_batch_splitting=settings.enable_large_batch_splitting,
        max_execution_batch_size=settings.max_execution_batch_size,
        allowed_batch_sizes=sizes,
    )


def model_config(settings: ModelServerSettings) -> ModelConfig:
    """The one model that is served from the start. Raises BadSettings."""
    return ModelConfig(
        name=MODEL,
        base_path=settings.models / MODEL,
        policy=parse_policy(settings.model_version_policy),
        labels=parse_labels(settings.version_labels),
    )
