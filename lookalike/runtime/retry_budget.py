"""A retry budget: a token bucket that successes fill and failures drain. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RetryBudget:
    """gRPC's retryThrottling (proposal A6): while most calls fail, retries would only double the load.

    A failure takes one token, a success adds `tokens_per_success`. Retries need more than half of the tokens.
    """

    max_tokens: float = 10.0
    tokens_per_success: float = 0.1
    tokens: float = 10.0

    def record_success(self) -> None:
        self.tokens = min(self.max_tokens, self.tokens + self.tokens_per_success)

    def record_failure(self) -> bool:
        """Record a failure; return whether the call may be retried."""
        self.tokens = max(0.0, self.tokens - 1)
        return self.tokens > self.max_tokens / 2
