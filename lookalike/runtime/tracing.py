"""Traces: spans of the work on a call, and their context in other processes (W3C Trace Context). Reads the clock.

A span is recorded where the call's trace is sampled and spans are exported (`lookalike/runtime/otlp.py`): else `span`
and `batch` give NO_SPAN, which costs next to nothing. Spans have names, times, counts and names of what was chosen,
never what callers send: no texts, no ids of products.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from contextvars import ContextVar, Token
from enum import IntEnum
from random import getrandbits, random
from time import perf_counter_ns, time_ns
from types import TracebackType
from typing import NamedTuple

from lookalike.errors import CallerError
from lookalike.status import code_of

Attribute = str | int | float | bool

_TRACEPARENT = re.compile(r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE = re.compile(r"[\x20-\x7e]{1,512}")
_MAX_LINKS = 64  # As many queries as a batch to a shard usually has.


class TraceContext(NamedTuple):
    """Where in which trace a call was made."""

    trace_id: str  # 32 hexadecimal digits.
    span_id: str  # 16 of the caller's span; empty: the trace begins here.
    sampled: bool
    state: str = ""  # tracestate, which is passed on as it is.

    def traceparent(self) -> str:
        return f"00-{self.trace_id}-{self.span_id or new_id(64)}-{'01' if self.sampled else '00'}"


class Kind(IntEnum):
    """As OTLP numbers them."""

    INTERNAL = 1
    SERVER = 2
    CLIENT = 3
    PRODUCER = 4
    CONSUMER = 5


class Span:
    """Some work on a call, while its context is open. Another thread may read it when it has ended."""

    # fmt: off
    __slots__ = (
        "_began_ns", "_token", "attributes", "end_ns", "error", "kind", "links",
        "name", "parent_id", "span_id", "start_ns", "state", "trace_id",
    )
    # fmt: on

    def __init__(self, name: str, parent: Span | TraceContext, kind: Kind = Kind.INTERNAL) -> None:
        self.name, self.kind = name, kind
        self.trace_id: str = parent.trace_id
        self.parent_id: str = parent.span_id
        self.state: str = parent.state
        self.span_id: str = new_id(64)
        self.attributes: dict[str, Attribute] = {}
        self.links: list[TraceContext] = []
        self.error = ""  # The gRPC status code of what ended it, where that is a fault of this system.
        self.end_ns = 0
        self._token: Token[Span | None]
        self.start_ns, self._began_ns = time_ns(), perf_counter_ns()

    def __enter__(self) -> Span:
        self._token = _ACTIVE.set(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _ACTIVE.reset(self._token)
        self.end(error)

    def context(self) -> TraceContext:
        """That of the calls which are made for it."""
        return TraceContext(self.trace_id, self.span_id, True, self.state)

    def set(self, **attributes: Attribute) -> None:
        self.attributes.update(attributes)

    def link(self, other: TraceContext) -> None:
        if len(self.links) < _MAX_LINKS:
            self.links.append(other)

    def end(self, error: BaseException | None = None) -> None:
        """Hand it to the exporter; once."""
        if self.end_ns:
            return
        if error is not None and not isinstance(error, CallerError):
            self.error = code_of(error).name
        self.end_ns = self.start_ns + perf_counter_ns() - self._began_ns
        if sink is not None:
            sink(self)


class NoSpan:
    """In place of a span that is not recorded."""

    __slots__ = ()

    def __enter__(self) -> NoSpan:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...

    def set(self, **attributes: Attribute) -> None: ...


NO_SPAN = NoSpan()
_ACTIVE: ContextVar[Span | None] = ContextVar("span", default=None)
sink: Callable[[Span], None] | None = None  # What takes ended spans; None: none are recorded.
_share = 0.0


def start(exporter: Callable[[Span], None], share: float) -> None:
    """From now on give it ended spans, on any thread, and sample this share of the calls that carry no trace."""
    global sink, _share  # One exporter in a process, as there is one log.
    sink, _share = exporter, share


def stop() -> None:
    global sink  # noqa: PLW0603
    sink = None


def is_on() -> bool:
    return sink is not None


def active() -> Span | None:
    """The span of the work in progress, if it is recorded."""
    return _ACTIVE.get()


def activate(span: Span | None) -> None:
    """Work of this task, or in this copy of the context, is a part of this span from now on."""
    _ACTIVE.set(span)


def new_trace() -> TraceContext:
    """Of a call that carries none: sampled by chance."""
    return TraceContext(new_id(128), "", random() < _share)


def unsampled() -> TraceContext:
    return TraceContext(new_id(128), "", sampled=False)


def span(name: str, kind: Kind = Kind.INTERNAL) -> Span | NoSpan:
    """A part of the active span; use it as a context."""
    parent = _ACTIVE.get()
    return NO_SPAN if parent is None else Span(name, parent, kind)


def record(name: str, took_s: float) -> None:
    """A part of the active span that ends now."""
    if (parent := _ACTIVE.get()) is not None:
        part = Span(name, parent)
        part.start_ns -= int(took_s * 1e9)
        part._began_ns -= int(took_s * 1e9)
        part.end()


def batch(name: str, members: Iterable[Span | None]) -> Span | NoSpan:
    """The span of work that is done for several spans at once; use it as a context.

    It is a part of the first one, and has links to the others, which have links to it.
    """
    spans = dict.fromkeys(each for each in members if each is not None)
    if not spans:
        return NO_SPAN
    first, *others = spans
    shared = Span(name, first)
    for other in others:
        shared.link(other.context())
        other.link(shared.context())
    return shared


def parse(traceparent: str, states: Sequence[str] = ()) -> TraceContext | None:
    """The context that a caller states; None where it states none, or none that is valid: then a trace begins."""
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None or (match[1] == "00" and match[5] is not None):
        return None
    state = ",".join(states)
    return TraceContext(match[2], match[3], bool(int(match[4], 16) & 1), state if _TRACESTATE.fullmatch(state) else "")


def new_id(bits: int) -> str:
    """A random id in hexadecimal digits."""
    return f"{getrandbits(bits) or 1:0{bits // 4}x}"
