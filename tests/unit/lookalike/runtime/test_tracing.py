"""Spans and their context in other processes."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from lookalike.errors import InvalidRequest, Unavailable
from lookalike.runtime import call, tracing
from lookalike.runtime.call import NO_CALL, Call, begin, begin_batch, origin, outgoing
from lookalike.runtime.tracing import NO_SPAN, Span, TraceContext, parse

TRACE, CALLER = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = f"00-{TRACE}-{CALLER}-01"


@pytest.fixture
def ended() -> Iterator[list[Span]]:
    """The spans that end in a test, in which every call is sampled."""
    spans: list[Span] = []
    tracing.start(spans.append, share=1.0)
    try:
        yield spans
    finally:
        tracing.stop()
        begin(NO_CALL, None)
        tracing.activate(None)


@pytest.fixture
def no_call() -> Iterator[None]:
    yield
    begin(NO_CALL, None)


def test_a_traceparent_says_trace_span_and_whether_it_is_sampled() -> None:
    assert parse(PARENT) == TraceContext(TRACE, CALLER, sampled=True)
    assert parse(f"00-{TRACE}-{CALLER}-00") == TraceContext(TRACE, CALLER, sampled=False)


def test_a_later_version_of_traceparent_may_have_more_fields() -> None:
    assert parse(f"01-{TRACE}-{CALLER}-01-more") == TraceContext(TRACE, CALLER, sampled=True)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "00",
        PARENT + "-more",
        PARENT.upper(),
        PARENT + "\n",
        PARENT.replace("00-", "ff-", 1),
        f"00-{'0' * 32}-{CALLER}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE}-{CALLER}",
        f"00-{TRACE[:-1]}-{CALLER}-01",
    ],
)
def test_what_is_no_traceparent_is_ignored(bad: str) -> None:
    assert parse(bad) is None


def test_no_damage_to_a_traceparent_raises() -> None:
    random = Random(0)
    for _ in range(2000):
        damaged = [*PARENT]
        for _ in range(random.randint(1, 4)):
            damaged[random.randrange(len(damaged))] = random.choice("0f-gé\0 \n\ud800")
        context = parse("".join(damaged))
        assert context is None or parse(context.traceparent()) == context


def test_several_tracestates_are_one_and_one_that_is_too_long_is_left_out() -> None:
    assert [each and each.state for each in (parse(PARENT, ["a=1", "b=2"]), parse(PARENT, ["a=" + "1" * 511]))] == [
        "a=1,b=2",
        "",
    ]


def test_a_call_of_a_trace_passes_it_on_where_nothing_is_exported(no_call: None) -> None:
    begin(Call("/a.B/C", (("traceparent", PARENT), ("tracestate", "a=1"), ("x-request-id", "r1"))), None)
    assert outgoing() == (("x-request-id", "r1"), ("traceparent", PARENT), ("tracestate", "a=1"))
    assert tracing.span("part") is NO_SPAN


def test_calls_outside_of_calls_carry_nothing() -> None:
    assert outgoing() == ()


def test_a_call_is_a_span_whose_parent_is_the_callers(ended: list[Span]) -> None:
    made = Call("/a.B/C", (("traceparent", PARENT),))
    begin(made, None)
    with tracing.span("part") as part:
        carried = dict(outgoing())["traceparent"]
    call.end(made)
    assert isinstance(part, Span)
    assert carried == f"00-{TRACE}-{part.span_id}-01"
    assert [(each.name, each.trace_id, each.parent_id) for each in ended] == [
        ("part", TRACE, ended[1].span_id),
        ("a.B/C", TRACE, CALLER),
    ]


def test_a_caller_that_does_not_sample_decides_for_all_that_is_done(ended: list[Span]) -> None:
    begin(Call("/a.B/C", (("traceparent", PARENT[:-1] + "0"),)), None)
    assert tracing.span("part") is NO_SPAN
    assert dict(outgoing())["traceparent"] == PARENT[:-1] + "0"


def test_a_call_that_chance_leaves_out_says_so_to_those_it_calls(ended: list[Span]) -> None:
    tracing.start(ended.append, share=0.0)
    begin(Call("/a.B/C"), None)
    context = parse(dict(outgoing())["traceparent"])
    assert (context and context.sampled, tracing.active()) == (False, None)


def test_a_call_without_a_trace_does_not_leave_that_of_the_one_before(ended: list[Span]) -> None:
    begin(Call("/a.B/C", (("traceparent", PARENT),)), None)
    begin(Call("/a.B/C", (("traceparent", PARENT[:-1] + "0"),)), None)
    assert tracing.active() is None


def test_a_batch_is_a_part_of_its_first_call_and_linked_with_the_others(ended: list[Span]) -> None:
    calls = [Call("/a.B/C", (("x-request-id", f"r{i}"),)) for i in range(3)]
    origins = []
    for each in calls:
        begin(each, None)
        origins.append(origin())
    with begin_batch("batch", origins) as span:
        carried = dict(outgoing())
    first, *others = (each.span for each in calls)
    assert isinstance(span, Span)
    assert first is not None
    assert (span.trace_id, span.parent_id) == (first.trace_id, first.span_id)
    assert span.links == [each.context() for each in others if each]
    assert [each.links for each in others if each] == [[span.context()]] * 2
    assert carried["x-request-id"] == "r0+r1+r2"


def test_a_batch_of_no_call_has_none_although_a_call_began_it(ended: list[Span]) -> None:
    outside = origin()
    begin(Call("/a.B/C"), None)
    assert begin_batch("batch", [outside]) is NO_SPAN
    assert (call.current(), tracing.active()) == (NO_CALL, None)


def test_what_happens_to_a_batch_is_noted_of_each_of_its_calls(no_call: None) -> None:
    calls, origins = [Call("/a.B/C"), Call("/a.B/D")], []
    for each in calls:
        begin(each, None)
        origins.append(origin())
    begin_batch("batch", origins)
    call.note("hedged")
    call.note("hedged")
    assert [each.notes for each in calls] == [("hedged",), ("hedged",)]


def test_faults_of_callers_are_no_errors_of_spans(ended: list[Span]) -> None:
    for error in (InvalidRequest("limit", "is 0"), Unavailable("gone"), KeyError("a bug")):
        made = Call("/a.B/C")
        begin(made, None)
        call.end(made, error)
    assert [each.error for each in ended] == ["", "UNAVAILABLE", "INTERNAL"]


def test_a_span_ends_once(ended: list[Span]) -> None:
    made = Call("/a.B/C")
    begin(made, None)
    call.end(made)
    call.end(made, Unavailable("late"))
    assert [each.error for each in ended] == [""]
