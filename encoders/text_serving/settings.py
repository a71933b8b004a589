"""The settings of `lookalike serve text-encoder`. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from lookalike.errors import BadSettings
from lookalike.releases.settings import FollowSettings
from lookalike.runtime.settings import setting

MAX_TEXTS = 1024  # In one request.


@dataclass(frozen=True, kw_only=True)
class TextEncoderSettings(FollowSettings):
    """A process that serves the encoders of an index's versions, or the artifacts that it is given."""

    PREFIX: ClassVar[str] = "LOOKALIKE_TEXT_ENCODER_"

    artifact: Path | None = setting(  # noqa: RUF009  # `setting` makes a field, not a value
        None, "folder of one text encoder to serve always, in place of those of the index's versions"
    )
    product_artifact: Path | None = setting(None, "with artifact: folder of one product encoder; unset: none is served")  # noqa: RUF009  # as above
    max_batch: int = setting(
        64, "most texts per batch; a long text counts as one per KiB", at_least=1, at_most=MAX_TEXTS
    )
    max_waiting: int = setting(
        4096,
        "most texts and products in flight; a long text counts as one per KiB; beyond it: RESOURCE_EXHAUSTED",
        at_least=1,
        at_most=1 << 20,
    )

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if self.artifact is not None and self.location:
            raise BadSettings(f"--artifact {self.artifact} --location {self.location}: set one of them")
        if self.artifact is None and self.product_artifact is not None:
            raise BadSettings(f"--product-artifact {self.product_artifact}: --artifact is missing, the text encoder")
