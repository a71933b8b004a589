"""Delays of refusals: by address, and bounded."""

from __future__ import annotations

from lookalike.access import refusals
from lookalike.access.refusals import FREE, LONGEST_S, MAX_ADDRESSES, MAX_DELAYED_PER_S, Refusals


def test_refusals_of_an_address_are_forgotten_with_time() -> None:
    delays = Refusals()
    assert [delays.delay_s("a", 0.0) for _ in range(FREE + 1)][-1] > 0
    assert delays.delay_s("a", 60.0) == 0.0


def test_no_refusal_is_delayed_for_longer_than_the_longest_and_soon_after_none_is() -> None:
    delays = Refusals()
    assert max(delays.delay_s("a", 0.0) for _ in range(200)) == LONGEST_S
    assert delays.delay_s("a", FREE + LONGEST_S / refusals.STEP_S) == 0.0


def test_only_so_many_refusals_are_delayed_at_once_whatever_their_addresses() -> None:
    delays = Refusals()
    delayed = sum(delays.delay_s(f"10.0.{i}", 5.0) > 0 for _ in range(FREE + 3) for i in range(MAX_DELAYED_PER_S))
    assert delayed == MAX_DELAYED_PER_S


def test_only_so_many_addresses_are_remembered() -> None:
    delays = Refusals()
    for _ in range(FREE):
        delays.delay_s("first", 0.0)
    for i in range(MAX_ADDRESSES):
        delays.delay_s(str(i), 0.0)
    assert delays.delay_s("first", 0.0) == 0.0
    assert len(delays._addresses) == MAX_ADDRESSES
