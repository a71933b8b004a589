"""The settings of a sync. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, tzinfo
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lookalike.errors import BadSettings
from lookalike.product_rules import DEFAULT_REVISION_UNIT
from pipeline.catalogue_report import MaxRejected
from pipeline.column_mapping import ColumnMapping
from pipeline.sync.source import Source

MAX_BATCH: Final = 5_000
MAX_BATCH_BYTES: Final = 4 << 20
DEFAULT_MAX_REMOVED: Final = MaxRejected(10, True)


@dataclass(frozen=True, kw_only=True)
class SyncSettings:
    """What is read, and what becomes of it."""

    source: Source
    mapping: ColumnMapping
    zone: tzinfo = UTC  # Of times that state none.
    revision_unit: str = DEFAULT_REVISION_UNIT  # One of REVISION_UNITS.
    deleted: str = ""  # The column that says that a row is deleted; empty: none does.
    photo_root: str = ""  # Where relative names of photos are below.
    overlap: float | None = None  # Seconds, or units of a number, that are read again; None: the default of the kind.
    max_removed: MaxRejected = DEFAULT_MAX_REMOVED  # Of what was published, that a full pass may remove.
    batch: int = 500  # Events appended at once.
    every_s: float = 5.0  # Between passes, with --follow.

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if not 1 <= self.batch <= MAX_BATCH:
            raise BadSettings(f"--batch {self.batch}: not in 1..{MAX_BATCH}")
        if not 0.05 <= self.every_s <= 86_400:
            raise BadSettings(f"--every {self.every_s:g}: not in 0.05..86400 seconds")
        if self.overlap is not None and not 0 <= self.overlap < 1e15:
            raise BadSettings(f"--overlap {self.overlap:g}: must be 0 or more")
        if self.revision_unit == "none" and not {"revision"} & {*self.mapping.fields, *self.mapping.constants}:
            raise BadSettings("--revision-unit none: revisions are no times, so --field revision=COLUMN must give them")


@dataclass(frozen=True, kw_only=True)
class Output:
    """Where products go: to a stream, or to a catalogue; to neither: only the report is made."""

    stream_url: str = ""
    catalogue: Path | None = None
    state: Path | None = None  # Of a sync to a stream.
    restart: bool = False
    full: bool = False
    follow: bool = False

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if self.catalogue and (self.follow or self.full or self.state or self.restart):
            raise BadSettings("--out writes the whole result once: without --follow, --full, --state and --restart")
        if self.stream_url and self.state is None:
            raise BadSettings("--stream needs --state FILE: what was read and published is kept there")


def time_zone(name: str) -> tzinfo:
    """Raises BadSettings for a name that no time zone has."""
    try:
        return UTC if name == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise BadSettings(f"--time-zone {name}: not a time zone such as Asia/Tokyo") from None
