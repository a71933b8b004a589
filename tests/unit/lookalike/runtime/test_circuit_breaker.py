"""The states of a circuit breaker, by a clock of the test's."""

from __future__ import annotations

import logging

import pytest

from lookalike.runtime.circuit_breaker import CircuitBreaker
from lookalike.runtime.reported_breaker import OPEN, ReportedBreaker


def breaker() -> CircuitBreaker:
    return CircuitBreaker(max_failures=3, pause_s=10.0)


def opened(at_s: float = 0.0) -> CircuitBreaker:
    made = breaker()
    for _ in range(3):
        made.record_failure(at_s)
    return made


def test_it_opens_at_the_last_of_so_many_failures_in_a_row_and_says_so_once() -> None:
    made = breaker()
    assert [made.record_failure(0) for _ in range(5)] == [False, False, True, False, False]
    assert not made.begin(9.9)


def test_a_success_between_failures_keeps_it_closed() -> None:
    made = breaker()
    for _ in range(5):
        made.record_failure(0)
        made.record_failure(0)
        assert not made.record_success()
    assert made.begin(0)


def test_after_the_pause_one_call_passes_and_no_other_until_it_ends() -> None:
    made = opened()
    assert [made.begin(10), made.begin(10), made.begin(11)] == [True, False, False]
    assert made.record_success()
    assert [made.begin(11), made.begin(11)] == [True, True]


def test_a_failed_probe_is_followed_by_another_pause() -> None:
    made = opened()
    assert made.begin(10)
    assert not made.record_failure(12)
    assert (made.allows(21.9), made.retry_after_s(21.5), made.allows(22)) == (False, 0.5, True)


def test_a_probe_that_never_ends_does_not_keep_it_open_for_ever() -> None:
    made = opened()
    assert made.begin(10)
    assert (made.begin(19), made.begin(20)) == (False, True)


def test_looking_does_not_take_the_probe() -> None:
    made = opened()
    assert made.allows(10)
    assert made.allows(10)
    assert made.begin(10)


def test_it_can_be_opened_at_once_and_its_pause_ended_early() -> None:
    made = breaker()
    assert made.trip(0)
    assert not made.trip(1)
    made.end_pause(2)
    assert [made.begin(2), made.begin(2)] == [True, False]
    closed = breaker()
    closed.end_pause(2)
    assert [closed.begin(2), closed.begin(2)] == [True, True]


def test_a_reported_breaker_logs_why_it_opens_and_that_it_closes_once_each(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    made = ReportedBreaker("a test", "nothing is kept", max_failures=2, pause_s=10.0, clock=lambda: now_s)
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            made.record_failure(OSError("full"))
        assert OPEN.labels("a test")._value.get() == 1
        now_s = 10.0
        assert made.begin()
        made.record_failure(OSError("still full"))
        now_s = 20.0
        assert made.begin()
        made.record_success()
        made.record_success()
    assert caplog.messages == ["a test: nothing is kept: full", "a test: answered again"]
    assert OPEN.labels("a test")._value.get() == 0
