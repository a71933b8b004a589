"""The metrics of keys and of refused callers, declared once. No I/O."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

REFUSED = Counter(
    "lookalike_callers_refused_total",
    "Calls refused for who makes them: missing: no key; malformed; unknown: no such key, secret or certificate; "
    "expired; scope: it may not do this; store: the keys are older than keys_max_age_s.",
    ["reason"],
)
DELAYED = Counter("lookalike_callers_delayed_total", "Refusals that were delayed, as many came from one address.")
KEYS = Gauge("lookalike_access_keys", "Keys and names in certificates that this process knows.")
KEYS_AGE = Gauge("lookalike_access_keys_age_seconds", "Time since the store of keys was last read.")
