"""The wait before a process that ended is started again."""

from __future__ import annotations

from lookalike.local.restarts import STABLE_S, RestartBackoff


def test_the_wait_doubles_from_a_second_to_half_a_minute() -> None:
    backoff = RestartBackoff()
    assert [backoff.next_wait_s(0.1) for _ in range(8)] == [1, 2, 4, 8, 16, 30, 30, 30]


def test_after_a_process_has_run_for_a_minute_the_wait_is_a_second_again() -> None:
    backoff = RestartBackoff()
    waits = [backoff.next_wait_s(ran_s) for ran_s in (0.1, 0.1, STABLE_S - 1, STABLE_S, 0.1)]
    assert waits == [1, 2, 4, 1, 2]
