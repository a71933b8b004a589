"""Which replicas of a shard are called: their health, how fast they answer, when to hedge. Pure: clock and ticks given.

Time without an answer is counted in ticks of the caller's own event loop. A late tick does not count: a process that
was stopped or busy itself takes nobody for hung.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

TICK_S = 0.1
_LATE_TICK_S = 2 * TICK_S
_PROBE_TICKS = 2  # An unanswered call is 100 to 200 ms old by then.
_DECAY_S = 1.0  # A slow call counts a third after so long.
_FLOOR_S = 0.0005  # Differences below are noise: the calls in flight decide.
_MIN_HEDGE_S = 0.005  # A second call that is sent sooner would mostly be for nothing.
_FIRST_HEDGE_S = 0.05  # Until calls have been measured.
_P95_STEP = 0.1  # Twenty calls, one above the estimate, leave it where it is.
_MIN_PROBE_S, MAX_PROBE_S = 0.1, 1.0
_STEADY_S = 5.0  # A replica that was in service for so long is probed at once when it is ejected.


class ReplicaState(Enum):
    """Whether a replica is called. The values are labels of metrics."""

    IN_SERVICE = "in_service"
    NEW = "new"  # It has not been asked yet.
    CATCHING_UP = "catching_up"  # By its own word it may lack changes.
    BEHIND = "behind"  # It lacks a change that another replica acknowledged to this process.
    CONNECTION_FAILED = "connection_failed"
    HUNG = "hung"
    DUPLICATE = "duplicate"  # The process of another address.

    @property
    def is_reachable(self) -> bool:
        """Whether it would answer a call, as far as is known."""
        return self not in (ReplicaState.CONNECTION_FAILED, ReplicaState.HUNG, ReplicaState.DUPLICATE)


@dataclass(slots=True)
class LatencyEstimate:
    """How long calls take: a peak counts at once, and fades (peak EWMA, as in Finagle's load balancer)."""

    _latency_s: float = 0.0
    _at_s: float = 0.0

    def add(self, latency_s: float, now_s: float) -> None:
        faded = math.exp(-(now_s - self._at_s) / _DECAY_S)
        self._latency_s = max(latency_s, latency_s + (self._latency_s - latency_s) * faded)
        self._at_s = now_s

    def at(self, now_s: float) -> float:
        return max(_FLOOR_S, self._latency_s * math.exp(-(now_s - self._at_s) / _DECAY_S))


@dataclass(slots=True)
class HedgeDelay:
    """The time after which nineteen of twenty calls have been answered, estimated as they are."""

    _p95_s: float = _FIRST_HEDGE_S

    def add(self, latency_s: float) -> None:
        step = 0.95 if latency_s > self._p95_s else -0.05
        self._p95_s = min(60.0, max(1e-5, self._p95_s * math.exp(_P95_STEP * step)))

    @property
    def seconds(self) -> float:
        return max(_MIN_HEDGE_S, self._p95_s)


@dataclass(slots=True)
class HedgeBudget:
    """A token bucket: every call adds `share` of a token, a hedge takes one; at most ten are saved."""

    share: float
    _tokens: float = 1.0

    def add_call(self) -> None:
        self._tokens = min(10.0, self._tokens + self.share)

    def take(self) -> bool:
        if not self.share or self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class ReplicaHealth:
    """One replica: what it was sent, when it answered, and whether it is called.

    hang_s: it hangs when nothing was answered for so long, not even a probe.
    """

    def __init__(self, hang_s: float, now_s: float) -> None:
        self._hang_ticks = math.ceil(hang_s / TICK_S)
        self._latency = LatencyEstimate()
        self._unanswered = False  # Whether a call was sent since the last answer; its caller may have given up.
        self._silent_ticks = 0
        self._since_s = now_s
        self._probe_delay_s = 0.0
        self._probe_at_s = now_s
        self.state = ReplicaState.NEW
        self.reason = "it has not answered yet"
        self.in_flight = 0

    @property
    def in_service(self) -> bool:
        return self.state is ReplicaState.IN_SERVICE

    def cost(self, now_s: float) -> float:
        """What a call to it would wait, about: to be compared with that of others."""
        return (self.in_flight + 1) * self._latency.at(now_s)

    def on_sent(self) -> None:
        self.in_flight += 1
        if not self._unanswered:
            self._unanswered, self._silent_ticks = True, 0

    def on_answer(self, latency_s: float | None, now_s: float) -> None:
        """It answered a call, with whatever status. latency_s: None for a call that says nothing of the others."""
        self.in_flight -= 1
        self._unanswered, self._silent_ticks = self.in_flight > 0, 0
        if latency_s is not None:
            self._latency.add(latency_s, now_s)

    def on_no_answer(self, waited_s: float | None, now_s: float) -> None:
        """A call ended without an answer: given up, or late. waited_s: as `latency_s`; it would have taken longer."""
        self.in_flight -= 1
        if waited_s is not None:
            self._latency.add(max(waited_s, self._latency.at(now_s)), now_s)

    def tick(self, elapsed_s: float) -> bool:
        """Count a tick, `elapsed_s` after the one before. Returns whether the replica has hung since."""
        if self._unanswered and elapsed_s < _LATE_TICK_S:
            self._silent_ticks += 1
        # The first tick may come any time after the call.
        return self.state.is_reachable and self._unanswered and self._silent_ticks > self._hang_ticks

    def wants_probe(self, now_s: float) -> bool:
        """Whether to ask it for a sign of life: it is not in service, or has not answered for a while."""
        if self.in_service:
            return self._unanswered and self._silent_ticks >= _PROBE_TICKS
        return now_s >= self._probe_at_s

    def on_probe(self, now_s: float) -> None:
        """A probe is being sent; the next one of a replica that is not in service waits longer, up to a second."""
        self._probe_at_s = now_s + self._probe_delay_s
        self._probe_delay_s = min(MAX_PROBE_S, max(_MIN_PROBE_S, 2 * self._probe_delay_s))

    def move_to(self, state: ReplicaState, reason: str, now_s: float) -> bool:
        """Enter a state. Returns whether it is another than before."""
        self.reason = reason
        if state is self.state:
            return False
        if self.in_service and now_s - self._since_s >= _STEADY_S:
            self._probe_delay_s = 0.0
        if self.in_service:
            self._probe_at_s = now_s + self._probe_delay_s
        if not state.is_reachable:
            self._unanswered, self._silent_ticks = False, 0
        self.state, self._since_s = state, now_s
        return True
