"""The log of slow searches: what was asked, by shape and without content, and where the time went. Logs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lookalike.runtime.call import NO_CALL, current
from lookalike.runtime.slow_log import SlowLog, shape_of
from lookalike.spaces import space_name
from server.metrics import RequestTimer
from server.policy import Route
from server.query import SearchQuery
from server.topology import Snapshot


@dataclass(slots=True)
class SearchDetails:
    """What is known of a search that was not answered from the cache, and not by another one's answer."""

    query: SearchQuery
    snapshot: Snapshot
    route: Route | None = None
    shard_s: Sequence[float | None] = ()  # Per shard, until it answered; None: it did not. Ordinary searches only.
    failures: Sequence[str] = ()  # Of shards: their number is logged.


def log_slow(slow: SlowLog, timer: RequestTimer, outcome: str) -> None:
    """Log a search, if it was slow."""
    if (seconds := timer.elapsed_s()) < slow.threshold_s:
        return
    call, details = current(), timer.details
    fields: dict[str, Any] = {
        "method": call.method,
        "outcome": outcome,
        "seconds": round(seconds, 4),
        "stages": {name: round(took_s, 4) for name, took_s in timer.stages.items()},
        "cached": timer.cached,
        "caller": call.caller.id if call is not NO_CALL else "",
        "notes": [*call.notes],
    }
    if isinstance(details, SearchDetails):
        fields |= _details(details)
    elif not timer.cached and outcome == "OK":
        fields["shared"] = True  # With an equal search in flight, whose entry has the details.
    slow.write("slow search", fields)


def _details(details: SearchDetails) -> dict[str, Any]:
    query, route, snapshot = details.query, details.route, details.snapshot
    return {
        "version": snapshot.version,
        "canary": snapshot.is_canary,
        "spaces": [space_name(space) for space in route.spaces] if route else [],
        "policy": route.policy if route else "",
        "examples": dict(Counter(example.source.value for example in query.examples)),
        "limit": query.limit,
        "filter": shape_of(query.filter),
        "exclude_same_shop": query.exclude_same_shop,
        "max_per_shop": query.max_per_shop,
        "diversity": query.diversity,
        "exact": query.exact,
        "explain": query.explain,
        "shards": [None if took_s is None else round(took_s, 4) for took_s in details.shard_s],
        "shards_failed": len(details.failures),
    }
