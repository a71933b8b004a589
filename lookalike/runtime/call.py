"""The call that a server is answering: who makes it, and what it carries beside its request. No I/O."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from math import inf

from lookalike.limits import MAX_LIMIT

Metadata = Sequence[tuple[str, str | bytes]]

SCOPES = ("search", "read", "write", "admin")

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True, kw_only=True)
class CallerLimits:
    """What one caller may use of one process that serves."""

    calls_per_s: float = inf  # Each search of a batch or a stream, and each change, is one.
    burst: float = 0.0  # Calls that may come at once; 0: as many as in a second.
    concurrency: float = inf  # Calls in flight.
    bytes_per_s: float = inf  # Of requests.
    photos_per_s: float = inf  # That are encoded.
    exact: bool = True  # Whether it may ask for exact searches.
    max_limit: int = MAX_LIMIT  # The greatest `limit` of a search.


NO_LIMITS = CallerLimits()


@dataclass(frozen=True, slots=True)
class Caller:
    """Who makes a call, and what that caller may do."""

    id: str  # Of the API key, or the name in the certificate; "": the server asks for neither.
    scopes: frozenset[str]  # Of SCOPES.
    limits: CallerLimits = NO_LIMITS


ANYONE = Caller("", frozenset(SCOPES))


@dataclass(slots=True)  # Not frozen: one is made for every call, and a frozen one costs three times as much.
class Call:
    """One call. Nobody changes it but the guard that lets it pass."""

    method: str  # "/package.Service/Method"
    metadata: Metadata = ()  # Keys in lower case; values of keys that end in "-bin" are bytes.
    peer: str = (
        ""  # The caller's address as gRPC writes it, "ipv4:10.0.0.7:43210"; "unix:" for streams of the native server.
    )
    identities: Sequence[str] = ()  # The names in the caller's certificate, which TLS has verified.
    caller: Caller = ANYONE
    _request_id: str = ""

    def value(self, key: str) -> str:
        """The first value of a key of the metadata, or ""."""
        for each, value in self.metadata:
            if each == key:
                return value if isinstance(value, str) else ""
        return ""

    def request_id(self) -> str:
        """The id by which logs name this call: the caller's own, in x-request-id, or a random one."""
        if not self._request_id:
            given = self.value("x-request-id")
            self._request_id = given if _REQUEST_ID.fullmatch(given) else secrets.token_hex(8)
        return self._request_id


# Lets a call pass, or raises a LookalikeError that refuses it. Called before the request is parsed, on any thread.
Guard = Callable[[Call], None]

NO_CALL = Call("")
_CURRENT: ContextVar[Call] = ContextVar("call", default=NO_CALL)


def current() -> Call:
    """The call that this task answers, or that this thread is submitting; NO_CALL outside of calls."""
    return _CURRENT.get()


def begin(call: Call, guard: Guard | None) -> None:
    """Make this the current call, if the guard lets it pass."""
    _CURRENT.set(call)
    if guard is not None:
        guard(call)
