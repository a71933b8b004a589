"""The limits of each caller, and its fair share of the permits, in this process. Reads the clock.

A caller is whoever an API key or a certificate names; without those there are no limits here. They hold in each gateway
process for itself: behind three gateways a key has up to three times as much.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from threading import Lock
from time import monotonic

from lookalike.errors import InvalidRequest, Overloaded, PermissionDenied
from lookalike.runtime.call import NO_LIMITS, Caller, current
from server import metrics

# A caller that has asked within this time counts as asking, whether it was admitted or not.
ASKING_S = 1.0
# While so much of the permits is left, a caller may hold more than its share: it takes nothing from anybody.
FREE_SHARE = 0.5
# Of the permits, kept from a caller that asks alone: the next one finds room at once.
LONE_SHARE = 0.875
_BUSY_RETRY_S = 0.1
_MAX_IDLE = 1024  # Callers that are remembered without a call in flight.


@dataclass(slots=True)
class Usage:
    """What one caller uses. Amounts are as of `at_s`; below zero they are owed."""

    calls: float
    bytes: float
    photos: float
    at_s: float
    asked_s: float = -inf
    inflight: int = 0


class KeyLimits:
    """Counts what callers use. Rates may be counted on any thread, permits on the event loop only."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._usages: dict[str, Usage] = {}
        self._lock = Lock()
        self._asking = (-inf, 1)  # When callers were counted last, and how many they were.

    def begin(self, calls: int, items: int, size: int, inflight: int, limit: int) -> Usage | None:
        """Count a call of the current caller; the usage that `end` takes. None: a caller without limits.

        calls:    the permits that it takes.
        items:    what it counts as against a rate of calls.
        size:     bytes of the request.
        inflight: permits that all callers hold, of `limit`.

        Raises Overloaded, with the time after which to retry.
        """
        caller = current().caller
        if not caller.id:
            return None
        with self._lock:
            now_s = self._clock()
            usage = self._usage(caller, now_s)
            usage.asked_s = now_s
            if usage.inflight and usage.inflight + calls > caller.limits.concurrency:
                raise _refusal("concurrency", f"{usage.inflight} calls of this key are in flight", _BUSY_RETRY_S)
            self._check_share(usage, calls, inflight, limit, now_s)
            self._take(usage, caller, now_s, items, size)
            usage.inflight += calls
            return usage

    def end(self, usage: Usage, calls: int) -> None:
        with self._lock:
            usage.inflight -= calls

    def count(self, items: int = 1, size: int = 0) -> None:
        """Count a call that takes no permit, on any thread. Raises Overloaded."""
        caller = current().caller
        if caller.limits is NO_LIMITS:
            return
        with self._lock:
            now_s = self._clock()
            self._take(self._usage(caller, now_s), caller, now_s, items, size)

    def count_photos(self, photos: int) -> None:
        """Count photos that are about to be encoded. Raises Overloaded."""
        caller = current().caller
        rate = caller.limits.photos_per_s
        if rate == inf or not photos:
            return
        with self._lock:
            usage = self._usage(caller, self._clock())
            _check("photos", usage.photos, photos, rate, rate)
            usage.photos -= photos

    def _usage(self, caller: Caller, now_s: float) -> Usage:
        """What the caller uses, with what it may use again since the last look."""
        limits = caller.limits
        burst = limits.burst or max(1.0, limits.calls_per_s)
        if (usage := self._usages.get(caller.id)) is None:
            if len(self._usages) >= _MAX_IDLE:
                self._usages = {id_: each for id_, each in self._usages.items() if _is_used(each, now_s)}
            usage = Usage(burst, limits.bytes_per_s, max(1.0, limits.photos_per_s), now_s)
            self._usages[caller.id] = usage
            return usage
        past_s, usage.at_s = now_s - usage.at_s, now_s
        usage.calls = min(burst, usage.calls + past_s * limits.calls_per_s if past_s else usage.calls)
        usage.bytes = min(limits.bytes_per_s, usage.bytes + past_s * limits.bytes_per_s if past_s else usage.bytes)
        photos = usage.photos + past_s * limits.photos_per_s if past_s else usage.photos
        usage.photos = min(max(1.0, limits.photos_per_s), photos)
        return usage

    def _take(self, usage: Usage, caller: Caller, now_s: float, items: int, size: int) -> None:
        limits = caller.limits
        if limits is NO_LIMITS:
            return
        if limits.calls_per_s < inf:
            _check("calls", usage.calls, items, limits.calls_per_s, limits.burst or max(1.0, limits.calls_per_s))
        if limits.bytes_per_s < inf:
            _check("bytes", usage.bytes, size, limits.bytes_per_s, limits.bytes_per_s)
        usage.calls -= items
        usage.bytes -= size

    def _check_share(self, usage: Usage, calls: int, inflight: int, limit: int, now_s: float) -> None:
        """Refuse a caller that has more than its share while others may want theirs."""
        if not usage.inflight or inflight + calls <= limit * FREE_SHARE:
            return
        asking = self._count_asking(now_s)
        share = max(1, int(limit * LONE_SHARE) if asking <= 1 else limit // asking)
        if usage.inflight + calls > share:
            reason = f"{usage.inflight} calls of this key are in flight, its share is {share}: {asking} keys ask"
            raise _refusal("share", reason, _BUSY_RETRY_S)

    def _count_asking(self, now_s: float) -> int:
        counted_s, asking = self._asking
        if now_s - counted_s > ASKING_S / 20:
            asking = sum(_is_used(each, now_s) for each in self._usages.values())
            self._asking = now_s, asking
        return asking


def check_search(*, exact: bool, limit: int) -> None:
    """Raises PermissionDenied and InvalidRequest for a search that the current caller may not ask for.

    It is asked before the cache: an answer that somebody else has paid for is no way around it.
    """
    limits = current().caller.limits
    if limits is NO_LIMITS:
        return
    if exact and not limits.exact:
        raise PermissionDenied("this API key may not ask for exact searches")
    if limit > limits.max_limit:
        raise InvalidRequest("limit", f"is {limit}, this API key may ask for {limits.max_limit} at most")


def _is_used(usage: Usage, now_s: float) -> bool:
    return usage.inflight > 0 or now_s - usage.asked_s <= ASKING_S


def _check(name: str, left: float, amount: float, rate: float, most: float) -> None:
    """Raises Overloaded where less is left. More than there ever is, is taken when there is the most, and owed."""
    needed = min(amount, most) - left
    if needed > 1e-9:
        raise _refusal(name, f"this key has used up its {name} of {rate:g}/s", max(0.001, needed / rate))


def _refusal(name: str, reason: str, retry_after_s: float) -> Overloaded:
    metrics.KEY_REFUSED.labels(name).inc()
    return Overloaded(reason, retry_after_s=retry_after_s)
