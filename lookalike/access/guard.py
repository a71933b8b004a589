"""Checks who makes a call, and whether that caller may make it, against the keys in memory. Reads clocks; no other I/O.

It takes about 2 µs of a call (benchmarks/key_check.py), so verified tokens are not remembered: there is nothing to void
when a key is revoked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hmac import compare_digest
from threading import Lock
from time import monotonic
from typing import NoReturn

from lookalike.access import metrics
from lookalike.access.key import AccessKey, digest_of, id_of
from lookalike.access.refusals import Refusals
from lookalike.access.scopes import scope_of
from lookalike.errors import PermissionDenied, Unauthenticated, Unavailable
from lookalike.runtime.call import Call, Caller, Guard
from lookalike.timestamps import unix_time_s

_SCHEME = "bearer "
_NOBODY = bytes(
    32
)  # No token has this hash. Unknown ids are compared with it, so that they take as long as known ones.
_NO_KEY = "no valid API key: send `authorization: Bearer lk_…`"


class KeyTable:
    """Keys as they are looked up. Not changed after it is made, so that any thread may use it."""

    def __init__(self, keys: Sequence[AccessKey] = ()) -> None:
        self._by_id = {key.id: key for key in keys}
        self._callers = {key.id: key.caller() for key in keys}
        self._by_caller = {self._callers[key.id].id: key for key in keys}
        self._by_identity = {key.identity: key for key in keys if key.identity}

    def __len__(self) -> int:
        return len(self._by_id)

    def of_token(self, token: str) -> AccessKey | None:
        """The key of a token, in a time that does not tell how much of it is right."""
        key = self._by_id.get(id_of(token) or "")
        same = compare_digest(digest_of(token), key.digest if key and key.digest else _NOBODY)
        return key if same else None

    def of_identities(self, names: Sequence[str]) -> AccessKey | None:
        return next((key for name in names if (key := self._by_identity.get(name)) is not None), None)

    def of_caller(self, id_: str) -> AccessKey | None:
        return self._by_caller.get(id_)

    def caller(self, key: AccessKey) -> Caller:
        return self._callers[key.id]


class KeyGuard:
    """A `Guard` by keys: whoever follows the store sets `table`."""

    def __init__(
        self,
        table: KeyTable | None = None,
        *,
        max_age_s: float,
        then: Guard | None = None,
        clock: Callable[[], float] = monotonic,
        now_s: Callable[[], float] = unix_time_s,
    ) -> None:
        """max_age_s: after so long without a word from the store no key is accepted.

        then: sees the calls of known callers, and may refuse them.
        """
        self._table = table or KeyTable()
        self._max_age_s = max_age_s
        self._then = then
        self._clock = clock
        self._now_s = now_s
        self._confirmed_s = clock()
        self._refusals = Refusals()
        self._lock = Lock()  # Of refusals, which several threads make.
        metrics.KEYS.set_function(lambda: len(self._table))
        metrics.KEYS_AGE.set_function(lambda: self._clock() - self._confirmed_s)

    def confirm(self, table: KeyTable | None = None) -> None:
        """The store was read: it has this table; None: nothing has changed."""
        if table is not None:
            self._table = table
        self._confirmed_s = self._clock()

    def __call__(self, call: Call) -> None:
        """Say who makes the call. Raises Unauthenticated, PermissionDenied, Unavailable."""
        table, given = self._table, call.value("authorization")
        if given[: len(_SCHEME)].lower() == _SCHEME:
            key = table.of_token(given[len(_SCHEME) :].strip())
        elif given:
            self._refuse("malformed", call)
        elif call.identities:
            key = table.of_identities(call.identities)
        else:
            self._refuse("missing", call)
        if key is None:
            self._refuse("unknown", call)
        self._let_pass(call, table, key)
        if self._then is not None:
            self._then(call)

    def renew(self, call: Call) -> None:
        """Check again a call that was let pass and has not ended, by its caller. Raises as a call of it would."""
        table = self._table
        if (key := table.of_caller(call.caller.id)) is None:
            self._refuse("unknown", call)
        self._let_pass(call, table, key)

    def _let_pass(self, call: Call, table: KeyTable, key: AccessKey) -> None:
        if self._clock() - self._confirmed_s > self._max_age_s:
            metrics.REFUSED.labels("store").inc()
            raise Unavailable("the server cannot reach its store of API keys", retry_after_s=1.0)
        if key.expires_s is not None and self._now_s() >= key.expires_s:
            self._refuse("expired", call)
        scope = scope_of(call.method)
        if scope and scope not in key.scopes:
            metrics.REFUSED.labels("scope").inc()
            raise PermissionDenied(f"needs an API key with the scope {scope}")
        call.caller = table.caller(key)

    def _refuse(self, reason: str, call: Call) -> NoReturn:
        metrics.REFUSED.labels(reason).inc()
        with self._lock:
            delay_s = self._refusals.delay_s(call.peer.rpartition(":")[0], self._clock())
        if delay_s:
            metrics.DELAYED.inc()
        raise Unauthenticated(_NO_KEY, delay_s=delay_s)
