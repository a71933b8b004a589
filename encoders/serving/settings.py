"""Settings of the model server, under TensorFlow-Serving's names where it has them. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from encoders.image.signature import MODEL
from encoders.serving.batching import BatchingParameters
from encoders.serving.model import ModelConfig
from encoders.serving.policy import parse_labels, parse_policy
from lookalike.errors import BadSettings
from lookalike.releases.settings import LocationSettings
from lookalike.runtime.settings import setting


@dataclass(frozen=True, kw_only=True)
class ModelServerSettings(LocationSettings):
    """Settings of `lookalike serve model-server`. location: an index whose models are served, too; empty: none."""

    PREFIX: ClassVar[str] = "LOOKALIKE_MODEL_SERVER_"

    models: Path = setting(Path("models"), "folder of the exported models: MODELS/MODEL/<version>")  # noqa: RUF009  # a field, no value
    model: str = setting(MODEL, "name of the image model, and of its folder in MODELS")
    model_version_policy: str = setting("latest:1", "versions to serve: latest:N, all or specific:N,N,…")
    version_labels: tuple[str, ...] = setting((), "labels of versions, LABEL=VERSION; each version must be served")
    file_system_poll_wait_seconds: float = setting(
        1.0, "how often MODELS is scanned for new versions; 0: only at startup", at_least=0, at_most=86_400
    )
    # The largest message holds 221 images of 224 px, so a request of any size is accepted, and run in slices.
    max_batch_size: int = setting(256, "most images in one request; more: INVALID_ARGUMENT", at_least=1, at_most=4096)
    batch_timeout_micros: int = setting(
        0, "how long a partial batch waits for more; 0: until a thread is free", at_least=0, at_most=10_000_000
    )
    max_enqueued_batches: int = setting(
        32, "most batches waiting; beyond it: UNAVAILABLE, the queue is full", at_least=1, at_most=100_000
    )
    num_batch_threads: int = setting(1, "concurrent model runs", at_least=1, at_most=256)
    enable_large_batch_splitting: bool = setting(True, "split large requests into runs of max_execution_batch_size")
    max_execution_batch_size: int = setting(
        16, "most images in one model run, if requests are split; 0: max_batch_size", at_least=0, at_most=4096
    )
    allowed_batch_sizes: tuple[str, ...] = setting(
        (), "sizes that batches are padded to, increasing; empty: no padding"
    )
    intra_op_threads: int = setting(
        0, "threads within one TensorFlow operation; 0: one per core", at_least=0, at_most=1024
    )
    inter_op_threads: int = setting(0, "concurrent TensorFlow operations; 0: one per core", at_least=0, at_most=1024)

    def __post_init__(self) -> None:
        """Validate the settings that are parsed later. Raises BadSettings."""
        model_config(self)
        batching_parameters(self)


def batching_parameters(settings: ModelServerSettings) -> BatchingParameters:
    """The settings that determine how batches are formed. Raises BadSettings."""
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
    """The one model served from startup. Raises BadSettings."""
    return ModelConfig(
        name=settings.model,
        base_path=settings.models / settings.model,
        policy=parse_policy(settings.model_version_policy),
        labels=parse_labels(settings.version_labels),
    )
