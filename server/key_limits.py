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
from lookalike.runtime.call import NO_LIMITS, Call, Caller, current
from server import metrics

# A caller that has asked within this time counts as asking, whether it was admitted or not.
ASKING_S = 1.0
# While so much of the permits is left, a caller may hold more than its share: it takes nothing from anybody.
FREE_SHARE = 0.5
# Of the permits, kept from a caller that asks alone: the next one finds room at once.
LONE_SHARE = 0.875
_BUSY_RETRY_S = 0.1
# Of who calls again before it may: so late it is refused, and it does not take the CPU of others by being refused.
_LATE_S = 0.25
_MAX_LATE_PER_S = 512  # Of all callers: 128 wait at once at most; the others are refused at once.
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
    closed_until_s: float = -inf  # When the next call may pass, or a call in flight ends.
    closed_by: str = ""


class KeyLimits:
    """Counts what callers use. Rates may be counted on any thread, permits on the event loop only."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._usages: dict[str, Usage] = {}
        self._lock = Lock()
        self._asking = (-inf, 1)  # When callers were counted last, and how many they were.
        self._second, self._late = 0, 0

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
                usage.closed_until_s, usage.closed_by = now_s + _BUSY_RETRY_S, "concurrency"
                raise _refusal("concurrency", f"{usage.inflight} calls of this key are in flight", _BUSY_RETRY_S)
            self._check_share(usage, calls, inflight, limit, now_s)
            self._take(usage, caller, now_s, items, size)
            usage.inflight += calls
            return usage

    def end(self, usage: Usage, calls: int) -> None:
        with self._lock:
            usage.inflight -= calls
            if usage.closed_by != "calls":
                usage.closed_until_s = -inf

    def check_open(self, call: Call) -> None:
        """A `Guard`: refuse the next calls of a caller that was refused, before they cost more, and late.

        Raises Overloaded.
        """
        if (usage := self._usages.get(call.caller.id)) is None or usage.closed_until_s == -inf:
            return
        with self._lock:
            now_s = self._clock()
            if (left_s := usage.closed_until_s - now_s) <= 0:
                return
            usage.asked_s = now_s
            if int(now_s) != self._second:
                self._second, self._late = int(now_s), 0
            self._late += 1
            late_s = _LATE_S if self._late <= _MAX_LATE_PER_S else 0.0
        raise _refusal(usage.closed_by, f"this key has reached its limit of {usage.closed_by}", left_s, late_s)

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
            if usage.calls < 1:
                usage.closed_until_s, usage.closed_by = now_s + (1 - usage.calls) / limits.calls_per_s, "calls"
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
            usage.closed_until_s, usage.closed_by = now_s + _BUSY_RETRY_S, "share"
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


def _refusal(name: str, reason: str, retry_after_s: float, delay_s: float = 0.0) -> Overloaded:
    metrics.KEY_REFUSED.labels(name).inc()
    return Overloaded(reason, retry_after_s=max(0.001, retry_after_s), delay_s=delay_s)
