"""What an update read, trained, encoded and built, and how long each stage took. Reads the clock."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lookalike.releases.manifest import DuplicatesThreshold, Manifest, RecipeChoice
from pipeline.catalogue_report import CatalogueReport

_EXAMPLES = 20  # Rejected rows that a report names; standard error names all.


@dataclass(slots=True)
class UpdateReport:
    """What an update read, trained, encoded and built, and how long each stage took."""

    catalogue: CatalogueReport
    version: str = ""
    text_artifact: Path | None = None
    text_trained: bool = False  # Whether this update trained the text encoder.
    text_reason: str = ""  # Why it was trained, or was not.
    text_fit: Mapping[str, Any] = field(default_factory=dict)  # The figures that decided it; empty: none did.
    product_artifact: Path | None = None
    no_product_space_reason: str = ""  # Why there is no product space; empty: there is one.
    spaces: dict[str, dict[str, Any]] = field(default_factory=dict)
    # The spaces that words alone are searched in, with their shares, and the figures that decided; empty: not measured.
    text_shares: dict[str, float] = field(default_factory=dict)
    text_figures: Mapping[str, Any] = field(default_factory=dict)
    # The score from which products are near-duplicates, by space; None: it could not be measured.
    duplicates: dict[str, DuplicatesThreshold | None] = field(default_factory=dict)
    choices: dict[str, RecipeChoice | None] = field(default_factory=dict)  # None: the space needs no measurement.
    encoded: dict[str, int] = field(default_factory=dict)
    features: dict[str, dict[str, int]] = field(default_factory=dict)  # What compaction did, by kind and encoder.
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measure the seconds that the block takes."""
        start_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - start_s, 3)

    def add_version(self, manifest: Manifest) -> None:
        """State the version that was built."""
        self.version = manifest.version
        self.spaces = {
            space.name: {"encoder": space.encoder, "vectors": sum(space.documents)} for space in manifest.spaces
        }
        self.choices = {space.name: space.choice for space in manifest.spaces}

    def as_json(self) -> dict[str, Any]:
        return self.catalogue.as_json() | {
            "rejected_examples": [str(row) for row in self.catalogue.rejects[:_EXAMPLES]],
            "version": self.version,
            "text_artifact": str(self.text_artifact) if self.text_artifact else None,
            "text_trained": self.text_trained,
            "text_reason": self.text_reason,
            "text_fit": self.text_fit,
            "product_artifact": str(self.product_artifact) if self.product_artifact else None,
            "no_product_space": self.no_product_space_reason,
            "spaces": self.spaces,
            "text_shares": self.text_shares,
            "text_figures": self.text_figures,
            "duplicates": {name: None if each is None else asdict(each) for name, each in self.duplicates.items()},
            "auto": {name: None if choice is None else asdict(choice) for name, choice in self.choices.items()},
            "encoded": self.encoded,
            "features": self.features,
            "seconds": self.seconds,
        }
