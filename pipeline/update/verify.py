"""The step `verify`: holds a version against the gate before it may serve. Reads files.

The gate is a function, so that whoever composes an update says which: `Verify`. A check that fails refuses the version
unless it is accepted by its name, which is recorded.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from lookalike.errors import BadSettings

FILES = "files"  # The check that no name accepts: a version that is damaged cannot serve.


class GateCheck(Protocol):
    """One check of the gate."""

    @property
    def name(self) -> str: ...

    @property
    def passed(self) -> bool: ...

    @property
    def sentence(self) -> str: ...


class GateReport(Protocol):
    """What the gate said."""

    @property
    def refused(self) -> bool: ...

    @property
    def checks(self) -> Sequence[GateCheck]: ...

    def as_json(self) -> dict[str, Any]: ...


class Verify(Protocol):
    """The gate. Compares a version with the one that serves, both in a directory of this machine."""

    def __call__(self, location: Path, candidate: str, live: str | None, *, golden: Path | None) -> GateReport: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class GateVerdict:
    """Whether a version may serve, and why not."""

    refused: bool
    reasons: tuple[str, ...]  # Of the checks that failed and are not accepted, "name: sentence".
    accepted: tuple[str, ...]  # The checks that failed and are accepted.
    report: Mapping[str, Any]


def judge(report: GateReport, accept: Collection[str]) -> GateVerdict:
    """What follows from a report. Raises BadSettings for a name that no check has."""
    if FILES in accept:
        raise BadSettings(f"--accept {FILES}: a version whose files are damaged cannot serve")
    names = [check.name for check in report.checks]
    if unknown := sorted(set(accept) - set(names)):
        raise BadSettings(f"--accept {unknown[0]}: the gate has no such check; it has {', '.join(names)}")
    failed = [check for check in report.checks if not check.passed]
    reasons = tuple(f"{check.name}: {check.sentence}" for check in failed if check.name not in accept)
    return GateVerdict(
        refused=report.refused and bool(reasons or not failed),
        reasons=reasons,
        accepted=tuple(check.name for check in failed if check.name in accept),
        report=report.as_json(),
    )
