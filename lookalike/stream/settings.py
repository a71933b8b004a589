"""The settings of a stream of product events. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from lookalike.errors import BadSettings

DEFAULT_GROUP: Final = "workers"
DEFAULT_PREFIX: Final = "lookalike:events"
DEFAULT_PARTITIONS: Final = 16
MAX_PARTITIONS: Final = 1024
FULL_RETRY_S: Final = 1.0  # After a stream that is full has refused events.


@dataclass(frozen=True, kw_only=True)
class StreamSettings:
    """Where a stream is, and its bounds."""

    url: str  # redis://…, rediss://… or unix://…
    prefix: str = DEFAULT_PREFIX  # Of its keys in Redis.
    partitions: int = 0  # To create it with, 16 by default; of one that is there, what it has to have; 0: any.
    max_events: int = 1_000_000  # It keeps, dead letters included; beyond it appends are refused.
    lease_s: float = 10.0  # After which the partitions of a worker that died go to others.
    heartbeat_s: float = 1.0  # At which a worker renews its leases, and sees who has joined and left.
    timeout_s: float = 5.0  # Of one call to Redis; after it Unavailable.
    # Redis may refuse to tell how it persists (CONFIG is forbidden in some managed ones): the operator answers for it.
    trust_durability: bool = False

    def __post_init__(self) -> None:
        """Raises BadSettings."""
        if not 0 <= self.partitions <= MAX_PARTITIONS:
            raise BadSettings(f"partitions of the stream: {self.partitions} is not in 1..{MAX_PARTITIONS}")
        if self.max_events < 1:
            raise BadSettings(f"max_events of the stream: {self.max_events} is not 1 or more")
        if not 0 < self.heartbeat_s <= self.lease_s / 3:
            raise BadSettings("heartbeat_s of the stream must be above 0, and at most a third of lease_s")
        if not self.timeout_s > 0:
            raise BadSettings("timeout_s of the stream must be above 0")
