"""Why an event is tried again or given up, and how long it waits before it is tried again. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from types import MappingProxyType
from typing import Final


class RetryCause(StrEnum):
    """What an event waits for. Retries are counted by this."""

    PHOTO = "photo"  # Its photo could not be fetched this time.
    MODEL_SERVER = "model server"
    GATEWAY = "gateway"  # Or a shard or an encoder behind it.
    ENCODER = "encoder"  # The photo's encoder is not that of the index: one of them is about to change.
    BUG = "bug"  # An error that nobody expected: here, or in the gateway.


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryPolicy:
    """attempts: how often an event is tried in all; None: until it succeeds, since the event is not at fault."""

    attempts: int | None
    first_pause_s: float
    max_pause_s: float

    def pause_s(self, attempt: int, random: Random, *, retry_after_s: float = 0.0) -> float:
        """The pause after an attempt, from 1: a random part of one that doubles (full jitter), or as was asked for.

        Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
        """
        longest_s = min(self.first_pause_s * 2.0 ** min(attempt - 1, 30), self.max_pause_s)
        return retry_after_s + longest_s * random.uniform(0.1, 1.0)


# A photo has five attempts within half a minute. What the system lacks is waited for without end, since giving up
# would make a dead letter of every event during an outage.
POLICIES: Final[Mapping[RetryCause, RetryPolicy]] = MappingProxyType(
    {
        RetryCause.PHOTO: RetryPolicy(attempts=5, first_pause_s=2.0, max_pause_s=60.0),
        RetryCause.MODEL_SERVER: RetryPolicy(attempts=None, first_pause_s=0.2, max_pause_s=15.0),
        RetryCause.GATEWAY: RetryPolicy(attempts=None, first_pause_s=0.1, max_pause_s=5.0),
        RetryCause.ENCODER: RetryPolicy(attempts=None, first_pause_s=1.0, max_pause_s=15.0),
        RetryCause.BUG: RetryPolicy(attempts=5, first_pause_s=0.2, max_pause_s=5.0),
    }
)


class Retry(Exception):
    """The event could not be handled this time."""

    def __init__(self, cause: RetryCause, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.retry_after_s = retry_after_s


class PhotoUnusable(Exception):
    """The event's photo will not be had, however often it is tried. The change is made without it."""


class Poison(Exception):
    """The event will never succeed: it becomes a dead letter."""
