"""What the gate found: checks with their figures, and whether the release is refused. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One thing that was looked at: whether it is within its limits, and what was measured."""

    name: str  # By which a refusal is accepted: "products", "recall", …
    passed: bool
    sentence: str  # For a person; of a refusal it names every figure beyond its limit, and the limit.
    figures: Mapping[str, Any] = field(default_factory=dict)
    compared: bool = True  # False: it could not be measured, and the sentence says why; it refuses nothing.


@dataclass(frozen=True, slots=True, kw_only=True)
class GateReport:
    """Whether a release may serve, and why not."""

    candidate: str
    live: str | None  # None: nothing serves yet.
    checks: Sequence[Check]
    seconds: float = 0.0

    @property
    def refused(self) -> bool:
        return any(not check.passed for check in self.checks)

    @property
    def refusals(self) -> Sequence[Check]:
        return [check for check in self.checks if not check.passed]

    def check(self, name: str) -> Check:
        return next(check for check in self.checks if check.name == name)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "checks": [asdict(check) for check in self.checks], "refused": self.refused}


def judged(name: str, refusals: Sequence[str], summary: str, figures: Mapping[str, Any]) -> Check:
    """A check that is passed if there is no reason to refuse."""
    return Check(name=name, passed=not refusals, sentence="; ".join(refusals) or summary, figures=figures)


def not_compared(name: str, why: str, **figures: Any) -> Check:
    return Check(name=name, passed=True, sentence=f"not compared: {why}", figures=figures, compared=False)
