"""The gate: `verify_release` says whether a release may serve, and every reason why not."""

from pipeline.gate.limits import DEFAULT_LIMITS, GateLimits
from pipeline.gate.report import Check, GateReport
from pipeline.gate.verify import CHECKS, verify_release

__all__ = ["CHECKS", "DEFAULT_LIMITS", "Check", "GateLimits", "GateReport", "verify_release"]
