"""Which calls a client retries, how often and after what pauses: gRPC's service config. Reads a file of the package.

Every unary method is retried, and `List` until its first product, where the gateway says UNAVAILABLE: reads, and
changes, which carry a revision, so that the newest wins however often they arrive. An enqueued change of revision 0 is
as of the time of its last attempt. Streams of requests (`SearchStream`, `Write`) are not: their callers know how far
they are. RESOURCE_EXHAUSTED is not: a gateway that has too much to do is not to get more, before the time it says.
While most calls fail, none is retried (`retryThrottling`).

Source: gRPC proposal A6 (client retries), https://github.com/grpc/proposal/blob/master/A6-client-retries.md
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib import resources
from typing import Any

_FILE = "service_config.json"
# gRPC's C core forgets a call whose pause ends at once (https://github.com/grpc/grpc/issues/41036): with pauses of 1 ms
# 143 of 300 calls had no answer until their deadline, with 20, 50 and 100 ms none of 1,200 (grpcio 1.85.1, two cores).
_LEAST_PAUSE_S = 0.05


@dataclass(frozen=True, kw_only=True)
class RetryPolicy:
    """The defaults are those of `service_config.json`, for clients in every language."""

    max_attempts: int = 4  # With the first one. 2..5: gRPC makes no more than 5.
    first_pause_s: float = 0.1  # Before the first retry, on average; then three times that of the one before.
    max_pause_s: float = 1.0

    def __post_init__(self) -> None:
        if not 2 <= self.max_attempts <= 5:
            raise ValueError(f"max_attempts={self.max_attempts}: not in 2..5; retry=None: a call is made once")
        if not _LEAST_PAUSE_S <= self.first_pause_s <= self.max_pause_s:
            raise ValueError(f"first_pause_s={self.first_pause_s}: not in {_LEAST_PAUSE_S}..{self.max_pause_s}")


DEFAULT_RETRIES = RetryPolicy()


def service_config(policy: RetryPolicy | None) -> str:
    """The service config of a channel, as JSON; None: calls are not retried."""
    config: dict[str, Any] = json.loads(resources.files("lookalike").joinpath(_FILE).read_text("utf-8"))
    if policy is None:
        return json.dumps({"loadBalancingConfig": config["loadBalancingConfig"]})
    for method in config["methodConfig"]:
        method["retryPolicy"] |= {
            "maxAttempts": policy.max_attempts,
            "initialBackoff": f"{policy.first_pause_s:g}s",
            "maxBackoff": f"{policy.max_pause_s:g}s",
        }
    return json.dumps(config)
