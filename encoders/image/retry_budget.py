"""How often a call may be tried again: a budget that successes fill and failures empty. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RetryBudget:
    """gRPC's retryThrottling (proposal A6): when most calls fail, trying each twice only doubles the load.

    A failure takes one token, a success gives `per_success` back; with half of them or fewer left, nothing is tried
    again.
    """

    max_tokens: float = 10.0
    tokens_per_success: float = 0.1
    tokens: float = 10.0

    def record_success(self) -> None:
        self.tokens = min(self.max_tokens, self.tokens + self.tokens_per_success)

    def record_failure(self) -> bool:
        """Count a failure; whether its call may be tried again."""
        self.tokens = max(0.0, self.tokens - 1)
        return self.tokens > self.max_tokens / 2
