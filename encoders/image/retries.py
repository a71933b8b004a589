"""How often a call may be tried again: a budget that successes fill and failures empty. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RetryBudget:
    """gRPC's retryThrottling (proposal A6): when most calls fail, trying each twice only doubles the load.

    A failure takes one token, a success gives `per_success` back; with half of them or fewer left, nothing is tried
    again.
    """

    most: float = 10.0
    per_success: float = 0.1
    tokens: float = 10.0

    def succeeded(self) -> None:
        self.tokens = min(self.most, self.tokens + self.per_success)

    def failed(self) -> bool:
        """Count a failure; whether its call may be tried again."""
        self.tokens = max(0.0, self.tokens - 1)
        return self.tokens > self.most / 2
