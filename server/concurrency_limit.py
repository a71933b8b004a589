"""How many calls may be in flight, by how long they take: an adaptive concurrency limit. Pure.

Work beyond what a process can do at once only waits, and waiting shows in the latencies: as in Envoy's adaptive
concurrency and Netflix' gradient limit, the limit is multiplied by "latency without waiting / latency now", plus its
square root, with which it grows again and finds more room where there is some.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from math import inf, sqrt

# A window is over after this time and this many calls: the median of 50 is within a third of that of all.
WINDOW_S, WINDOW_CALLS = 0.1, 50
# Windows whose least median is the latency without waiting. It has to be forgotten: encoders and indexes change.
REMEMBERED_WINDOWS = 100
# Latency may be that many times as long before the limit falls: the least of many medians is below the usual one.
TOLERANCE = 2.5
LEAST_GRADIENT = 0.5  # One window at most halves the limit.
# While calls are refused, all windows wait, and their least median would creep up with the limit. So one window in this
# many is measured at a fraction of the limit (Envoy's "min RTT" window). The first probe comes sooner: after a start
# into an overload there is no window without waiting.
FIRST_PROBE_WINDOWS = 3
PROBE_WINDOWS, PROBE_SHARE, PROBED_OVERLOAD = 50, 0.25, 0.2
STALE_S = 1.0  # After it a window says nothing of now: where all calls are refused no new latencies come.
_FIRST_RETRY_S, _LAST_RETRY_S = 0.1, 5.0


# Calls that take about as long as each other: the method first, then whatever else tells them apart.
Kind = tuple[str, ...]


@dataclass(slots=True)
class Latencies:
    """Latencies of one kind of call: those of the window, and what earlier windows say."""

    window: list[float] = field(default_factory=list)
    medians: deque[float] = field(default_factory=lambda: deque(maxlen=REMEMBERED_WINDOWS))
    started_s: float = -inf
    ended_s: float = -inf  # When the last window did.
    quickest_s: float = 0.0  # Nine of ten calls of the last window took longer.

    def end_window(self, now_s: float) -> float:
        """The gradient: 1 where calls do not wait, less where they do."""
        ordered = sorted(self.window)
        median_s = _quantile(ordered, 0.5)
        self.medians.append(median_s)
        self.quickest_s, self.ended_s = _quantile(ordered, 0.1), now_s
        self.window.clear()
        gradient = TOLERANCE * min(self.medians) / median_s if median_s else 1.0
        return min(1.0, max(LEAST_GRADIENT, gradient))


class ConcurrencyLimit:
    """A limit of `least` to `most` calls in flight. It begins at `most`.

    least: so many may always be: a cause of waiting other than more calls, as a busy machine, refuses none of them.
    """

    def __init__(self, most: int, *, least: int) -> None:
        self._least = min(least, most)
        self._most = most
        self._limit = float(most)
        self._kinds: dict[Kind, Latencies] = {}
        self._peak = 0  # Calls in flight since the last window.
        self._admitted = self._refused = 0  # Since the last window.
        self._overload = 0.0  # Refused per admitted call, in the last window.
        self._windows = PROBE_WINDOWS - FIRST_PROBE_WINDOWS  # With many refusals, since the last probe.
        self._probing = 0  # Windows that are left of a probe: calls of before it end in the first.

    @property
    def limit(self) -> int:
        if self._probing:
            return max(1, int(self._limit * PROBE_SHARE))
        return int(self._limit)

    def admitted(self, inflight: int) -> None:
        """A call was admitted; so many are in flight now."""
        self._admitted += 1
        self._peak = max(self._peak, inflight)

    def refused(self) -> float:
        """A call was refused; the seconds after which to try again. They grow with the calls refused per admitted."""
        self._refused += 1
        overload = max(self._overload, self._refused / max(1, self._admitted))
        return min(_LAST_RETRY_S, _FIRST_RETRY_S * (1.0 + overload))

    def ended(self, kind: Kind, took_s: float, now_s: float) -> None:
        """A call of a kind was answered."""
        latencies = self._kinds.setdefault(kind, Latencies())
        if not latencies.window:
            latencies.started_s = now_s
        latencies.window.append(took_s)
        if len(latencies.window) >= WINDOW_CALLS and now_s - latencies.started_s >= WINDOW_S:
            self._adapt(latencies.end_window(now_s))

    def least_s(self, method: str, now_s: float) -> float:
        """What the quickest kind of a method's calls takes at least, as nine of ten did; 0.0 where nothing is known."""
        known = [latencies for kind, latencies in self._kinds.items() if kind[0] == method]
        if not known or now_s - max(each.ended_s for each in known) > STALE_S:
            return 0.0
        return min(each.quickest_s for each in known)

    def _adapt(self, gradient: float) -> None:
        if self._probing:
            self._probing -= 1
        elif gradient < 1.0:
            # From the calls that there were, not from a limit that was never reached: it would take long to come down.
            used = min(self._limit, self._peak)
            self._limit = max(float(self._least), used * gradient + sqrt(used))
        elif self._peak >= self._limit / 2:
            self._limit = min(float(self._most), self._limit + sqrt(self._limit))
        self._overload = self._refused / max(1, self._admitted)
        self._windows += self._overload > PROBED_OVERLOAD
        if self._windows >= PROBE_WINDOWS:
            self._windows, self._probing = 0, 2
        self._peak = self._admitted = self._refused = 0


def _quantile(ordered: Sequence[float], share: float) -> float:
    return ordered[int(share * (len(ordered) - 1))]
