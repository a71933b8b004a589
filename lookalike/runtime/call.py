"""The call that a server is answering: who makes it, and what it carries beside its request. No I/O."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from functools import partial
from math import inf
from typing import ParamSpec, TypeVar

import grpc

from lookalike.limits import MAX_LIMIT
from lookalike.runtime import tracing
from lookalike.runtime.tracing import Attribute, Kind, NoSpan, Span, TraceContext
from lookalike.status import code_of

P = ParamSpec("P")
Result = TypeVar("Result")

Metadata = Sequence[tuple[str, str | bytes]]
OutgoingMetadata = tuple[tuple[str, str], ...]

SCOPES = ("search", "read", "write", "admin")
REQUEST_ID, TRACEPARENT, TRACESTATE = "x-request-id", "traceparent", "tracestate"

_MAX_REQUEST_ID = 128
_MAX_NAMED = 8  # Members of a batch: as many ids of our own fit into one.
_REQUEST_ID = re.compile(rf"[A-Za-z0-9._:/+=@-]{{1,{_MAX_REQUEST_ID}}}")


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


# One is made for every call: a frozen one costs three times as much, and one with slots, which are all set, twice.
@dataclass(eq=False)
class Call:
    """One call. Nobody changes it but the guard that lets it pass."""

    method: str  # "/package.Service/Method"
    metadata: Metadata = ()  # Keys in lower case; values of keys that end in "-bin" are bytes.
    peer: str = (
        ""  # The caller's address as gRPC writes it, "ipv4:10.0.0.7:43210"; "unix:" for streams of the native server.
    )
    identities: Sequence[str] = ()  # The names in the caller's certificate, which TLS has verified.
    caller: Caller = field(default=ANYONE, init=False)
    members: Sequence[Call] = field(default=(), init=False)  # Of a batch: the calls that are worked for together.
    notes: Sequence[str] = field(default=(), init=False)  # What happened to it: "hedged", "retried".
    span: Span | None = field(default=None, init=False)  # Of its answer, if that is recorded.
    _request_id: str = field(default="", init=False)
    _trace: TraceContext | None = field(default=None, init=False)

    def value(self, key: str) -> str:
        """The first value of a key of the metadata, or ""."""
        for each, value in self.metadata:
            if each == key:
                return value if isinstance(value, str) else ""
        return ""

    def request_id(self) -> str:
        """The id by which logs name this call: the caller's own, in x-request-id, or a random one.

        Of a batch: those of its members with "+" between them, as far as one id may be long.
        """
        if not self._request_id:
            if self.members:
                ids = "+".join(each.request_id() for each in self.members[:_MAX_NAMED])
                self._request_id = ids[:_MAX_REQUEST_ID]
            else:
                given = self.value(REQUEST_ID)
                self._request_id = given if _REQUEST_ID.fullmatch(given) else tracing.new_id(64)
        return self._request_id

    def trace(self) -> TraceContext | None:
        """The trace that it is part of: the caller's, or a new one if this process exports traces.

        Of a batch: that of the first of eight members which has one.
        """
        if self._trace is None:
            if self.members:
                self._trace = next(filter(None, map(Call.trace, self.members[:_MAX_NAMED])), None)
            elif (given := self.value(TRACEPARENT)) != "":
                states = [str(value) for key, value in self.metadata if key == TRACESTATE]
                self._trace = tracing.parse(given, states)
            if self._trace is None and tracing.is_on():
                self._trace = tracing.new_trace()
        return self._trace


# Lets a call pass, or raises a LookalikeError that refuses it. Called before the request is parsed, on any thread.
Guard = Callable[[Call], None]

NO_CALL = Call("")
_CURRENT: ContextVar[Call] = ContextVar("call", default=NO_CALL)


def current() -> Call:
    """The call that this task answers, or that this thread is submitting; NO_CALL outside of calls."""
    return _CURRENT.get()


def begin(call: Call, guard: Guard | None, kind: Kind = Kind.SERVER) -> None:
    """Make this the current call, if the guard lets it pass. Whoever answers it ends it, too."""
    _CURRENT.set(call)
    if guard is not None:
        guard(call)
    if tracing.sink is not None:
        tracing.activate(_start_span(call, kind))


def end(call: Call, error: BaseException | None = None) -> None:
    """The call is answered, or failed with this error."""
    if call.span is not None:
        code: tuple[int, str] = (code_of(error) if error else grpc.StatusCode.OK).value
        attributes: dict[str, Attribute] = {"rpc.system": "grpc", "rpc.grpc.status_code": code[0]}
        call.span.set(**attributes)
        call.span.end(error)


class answering:  # noqa: N801  # Used as a function; one that contextlib makes costs three times as much.
    """A context in which a task answers a call. Raises what the guard refuses it with."""

    __slots__ = ("_call", "_guard", "_kind")

    def __init__(self, call: Call, guard: Guard | None, kind: Kind = Kind.SERVER) -> None:
        self._call, self._guard, self._kind = call, guard, kind

    def __enter__(self) -> None:
        begin(self._call, self._guard, self._kind)

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        end(self._call, error)


def _start_span(call: Call, kind: Kind) -> Span | None:
    if call.span is None and (trace := call.trace()) is not None and trace.sampled:
        call.span = Span(call.method.removeprefix("/"), trace, kind)
    return call.span


# Work for calls that is handed on: to batches, to threads, to other processes.

Origin = tuple[Call, Span | None]  # The call that something is done for, and the span that this is a part of.


def origin() -> Origin:
    return _CURRENT.get(), tracing.active()


def begin_batch(name: str, origins: Sequence[Origin]) -> Span | NoSpan:
    """What this task, or this copy of the context, does from now on is for all of these; use the span as a context."""
    calls = [*dict.fromkeys(call for call, _ in origins if call is not NO_CALL)]
    call = calls[0] if calls else NO_CALL
    if len(calls) > 1:
        call = Call("")
        call.members = calls
    _CURRENT.set(call)
    tracing.activate(None)  # That of whoever began this task.
    return tracing.batch(name, [span for _, span in origins])


def carried(work: Callable[P, Result]) -> Callable[P, Result]:
    """The same work, as a part of this call on whatever thread it is done."""
    return partial(copy_context().run, work)


def outgoing() -> OutgoingMetadata:
    """The metadata of a call to another process of the system that is made for this one.

    What a process asks of its own accord, such as which versions there are, is no trace for the other to sample.
    """
    call = _CURRENT.get()
    if call is NO_CALL:
        return ((TRACEPARENT, tracing.unsampled().traceparent()),) if tracing.is_on() else ()
    span = tracing.active()
    trace = call.trace() if span is None else span.context()
    if trace is None:
        return ((REQUEST_ID, call.request_id()),)
    metadata = (REQUEST_ID, call.request_id()), (TRACEPARENT, trace.traceparent())
    return (*metadata, (TRACESTATE, trace.state)) if trace.state else metadata


def note(text: str) -> None:
    """Remember what happened to the current call, for the log of slow ones."""
    call = _CURRENT.get()
    for each in call.members or (call,):
        if each is not NO_CALL and text not in each.notes:
            each.notes = (*each.notes, text)
