"""The record of a release: how it was made, what the gate said, when it began to serve and why it ceased. Does I/O.

LOCATION/releases/<version>.json, beside the version and not in it: a version never changes once it is complete, its
record does whenever the release is published or taken back. It stays when the version is removed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lookalike.errors import BadArtifact
from lookalike.releases.location import Location
from lookalike.releases.version import RECORDS, parse_version_name
from lookalike.strict_json import parse_json
from lookalike.timestamps import unix_time_s

_FORMAT = 1
PUBLISHED, ROLLED_BACK = "published", "rolled back"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseEvent:
    """A change of what serves."""

    at: str  # ISO 8601, in UTC, by the clock of the machine that made it.
    what: str  # PUBLISHED: it began to serve. ROLLED_BACK: it ceased, because of `why`.
    by: str  # Who: "user@host".
    why: str = ""
    other: str = ""  # The version that served before (PUBLISHED) or serves again (ROLLED_BACK); empty: none.


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseRecord:
    """How a version came to be, and what became of it."""

    version: str
    made_at: str  # ISO 8601, in UTC.
    software: str = ""
    catalogue: str = ""
    steps: Mapping[str, float] = field(default_factory=dict)  # Seconds of each step of the update.
    report: Mapping[str, Any] = field(default_factory=dict)  # What the update read, encoded, trained and built.
    changes: Mapping[str, Any] = field(default_factory=dict)  # Against the version that served.
    gate: Mapping[str, Any] | None = None  # None: it was not held against the gate.
    accepted: tuple[str, ...] = ()  # The checks of the gate that were overridden.
    watch: Mapping[str, Any] | None = None  # What was seen after it began to serve; None: nobody looked.
    events: tuple[ReleaseEvent, ...] = ()

    @property
    def replaced(self) -> str:
        """The version that served before it; empty: none, or it has never served."""
        published = [event for event in self.events if event.what == PUBLISHED]
        return published[-1].other if published else ""

    @property
    def is_rolled_back(self) -> bool:
        """Whether the last that happened to it is that it was taken back."""
        return bool(self.events) and self.events[-1].what == ROLLED_BACK

    def with_event(self, what: str, by: str, *, why: str = "", other: str = "") -> ReleaseRecord:
        event = ReleaseEvent(at=now(), what=what, by=by, why=why, other=other)
        return replace(self, events=(*self.events, event))


def now() -> str:
    """ISO 8601, in UTC, to the second."""
    return datetime.fromtimestamp(unix_time_s(), UTC).isoformat(timespec="seconds")


def read_record(location: Location, name: str) -> ReleaseRecord | None:
    """None: there is none. Raises BadArtifact for one that cannot be read, OperatorError."""
    path = f"{RECORDS}/{parse_version_name(name, str(location))}.json"
    if (data := location.read_file(path)) is None:
        return None
    try:
        body = parse_json(data)
        if body.pop("format") != _FORMAT:
            raise BadArtifact(f"{location}/{path}: has another format than {_FORMAT}")
        events = tuple(ReleaseEvent(**event) for event in body["events"])
        return ReleaseRecord(**{**body, "accepted": tuple(body["accepted"]), "events": events})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadArtifact(f"{location}/{path}: not a record: {type(error).__name__}: {error}") from error


def write_record(location: Location, record: ReleaseRecord) -> None:
    """Replace the record of a version, atomically. Raises OperatorError."""
    body = {"format": _FORMAT, **asdict(record)}
    location.write_file(f"{RECORDS}/{record.version}.json", (json.dumps(body, indent=1) + "\n").encode())


def append_event(location: Location, name: str, what: str, by: str, *, why: str = "", other: str = "") -> None:
    """Record what happened to a version; one without a record gets one. Raises BadArtifact, OperatorError."""
    record = read_record(location, name) or ReleaseRecord(version=name, made_at="")
    write_record(location, record.with_event(what, by, why=why, other=other))
