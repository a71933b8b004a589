"""Let a version of a location serve, go back to the one before it, or try one, and record it. Does I/O."""

from __future__ import annotations

from typing import NamedTuple

from lookalike.errors import BadArtifact, BadSettings, OperatorError
from lookalike.releases.canary import Canary
from lookalike.releases.location import Location
from lookalike.releases.records import PUBLISHED, ROLLED_BACK, append_event, read_record


class NoSuchVersion(BadArtifact):
    """The location has no version of that name."""


class CutOver(NamedTuple):
    """What came of letting a version serve."""

    before: str  # The version that served before; empty: none, or CURRENT was damaged.
    problem: str  # Why it is not recorded; empty: it is.


def serving(location: Location) -> str:
    """The version that serves; empty where CURRENT is missing or damaged, which `cut_over` repairs."""
    try:
        return location.current()
    except BadArtifact:
        return ""


def require_version(location: Location, name: str) -> None:
    """Raises NoSuchVersion."""
    if name not in (names := location.list_versions()):
        raise NoSuchVersion(f"{location}: no version {name} here; there are: {', '.join(names) or 'none'}")


def cut_over(location: Location, name: str, *, by: str, why: str, expected: str = "") -> CutOver:
    """Let a version serve, if its manifest is valid.

    by, why:  for the record.
    expected: the version that has to serve now; empty: whichever does.

    Raises BadArtifact, NoSuchVersion, BadSettings where another one than `expected` serves.
    """
    require_version(location, name)
    location.read_manifest(name)
    before = serving(location)
    if expected not in ("", before):
        raise BadSettings(f"{location}: version {before or '(none)'} serves, and not {expected}")
    location.make_current(name)
    return CutOver(before, _record(location, name, before, by, why))


def version_before(location: Location) -> str:
    """The version that served before the one that serves. Raises BadArtifact, BadSettings where none is on record."""
    current = location.current()
    record = read_record(location, current)
    if record is None or not record.replaced:
        raise BadSettings(f"{location}: it is not recorded what served before version {current}: name a version")
    return record.replaced


def try_version(location: Location, name: str, share: float) -> None:
    """Let a version answer a share of searches. Raises BadSettings where it cannot, BadArtifact, NoSuchVersion."""
    require_version(location, name)
    if not 0 < share <= 1:  # Written so that NaN fails too.
        raise BadSettings(f"--share {share}: must be above 0 and at most 1")
    if name == (current := location.current()):
        raise BadSettings(f"{location}: version {name} serves already")
    shards, served = (location.read_manifest(each).shards for each in (name, current))
    if shards != served:
        raise BadSettings(
            f"{location}: version {name} has {shards} shards, the one that serves {served}: every change is to be "
            "made in both, so a canary has as many"
        )
    location.set_canary(Canary(version=name, share=share))


def _record(location: Location, name: str, before: str, by: str, why: str) -> str:
    """Record that a version serves; of one that is left for the one that it replaced, that it is taken back."""
    if name == before:
        return ""
    try:
        left = read_record(location, before) if before else None
        if left is not None and left.replaced == name:
            append_event(location, before, ROLLED_BACK, by, why=why, other=name)
        else:
            append_event(location, name, PUBLISHED, by, why=why, other=before)
    except OperatorError as error:
        return f"it is not recorded that version {name} serves: {error}"
    return ""
