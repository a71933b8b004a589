"""The limits of callers, and their shares of the permits."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import inf
from typing import Any

import pytest

from lookalike.errors import InvalidRequest, Overloaded, PermissionDenied
from lookalike.runtime.call import NO_CALL, NO_LIMITS, Call, Caller, CallerLimits, begin
from server.admission import Admission, Permit
from server.key_limits import ASKING_S, KeyLimits, check_search
from server.metrics import RequestTimer


class Gateway:
    """An admission whose callers come one after the other, on a clock that a test sets."""

    def __init__(self, max_inflight: int = 64) -> None:
        self.at_s = 0.0
        self.keys = KeyLimits(clock=lambda: self.at_s)
        self.admission = Admission(max_inflight, keys=self.keys)

    @contextmanager
    def caller(self, id_: str, **limits: Any) -> Iterator[None]:
        given = CallerLimits(**limits) if limits else NO_LIMITS
        call = Call("")
        call.caller = Caller(id_, frozenset({"search"}), given)
        begin(call, None)
        try:
            yield
        finally:
            begin(NO_CALL, None)

    def ask(self, id_: str, calls: int = 1, size: int = 0, items: int | None = None, **limits: Any) -> Permit:
        """A call that is in flight until it is given back. Raises Overloaded."""
        with self.caller(id_, **limits):
            return self.admission.permit(RequestTimer(), calls, size, items=items).__enter__()

    def fill(self, id_: str) -> list[Permit]:
        """As many calls in flight as the caller can have."""
        permits = list[Permit]()
        with suppress(Overloaded):
            while True:
                permits.append(self.ask(id_))
        return permits


def give_back(*permits: Permit) -> None:
    for permit in permits:
        permit.__exit__(None, None, None)


def test_a_rate_lets_a_burst_pass_and_then_as_many_calls_as_it_says() -> None:
    gateway, limits = Gateway(), dict[str, Any]({"calls_per_s": 10.0, "burst": 3.0})
    give_back(*(gateway.ask("a", **limits) for _ in range(3)))
    with pytest.raises(Overloaded) as caught:
        gateway.ask("a", **limits)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    gateway.at_s = 0.1
    give_back(gateway.ask("a", **limits))
    with pytest.raises(Overloaded):
        gateway.ask("a", **limits)
    give_back(gateway.ask("b", **limits))


def test_a_batch_counts_as_its_items_and_one_beyond_the_burst_is_owed() -> None:
    gateway, limits = Gateway(), dict[str, Any]({"calls_per_s": 10.0})
    give_back(gateway.ask("a", calls=25, **limits))
    gateway.at_s = 1.5
    with pytest.raises(Overloaded) as caught:
        gateway.ask("a", **limits)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    gateway.at_s = 2.5
    give_back(gateway.ask("a", calls=1, items=10, **limits))
    with pytest.raises(Overloaded):
        gateway.ask("a", **limits)


def test_bytes_are_counted_by_their_own_rate() -> None:
    gateway, limits = Gateway(), dict[str, Any]({"bytes_per_s": 1000.0})
    give_back(gateway.ask("a", size=900, **limits))
    with pytest.raises(Overloaded, match="bytes") as caught:
        gateway.ask("a", size=200, **limits)
    assert caught.value.retry_after_s == pytest.approx(0.1)
    gateway.at_s = 0.1
    give_back(gateway.ask("a", size=200, **limits))


def test_photos_are_counted_by_their_own_rate() -> None:
    gateway = Gateway()
    with gateway.caller("a", photos_per_s=2.0):
        gateway.keys.count_photos(2)
        with pytest.raises(Overloaded, match="photos"):
            gateway.keys.count_photos(1)
        gateway.at_s = 0.5
        gateway.keys.count_photos(1)
    with gateway.caller("b"):
        gateway.keys.count_photos(1000)


def test_concurrency_counts_calls_in_flight_and_a_refused_call_is_none() -> None:
    gateway, limits = Gateway(), dict[str, Any]({"concurrency": 2})
    first, second = gateway.ask("a", **limits), gateway.ask("a", **limits)
    for _ in range(3):
        with pytest.raises(Overloaded):
            gateway.ask("a", **limits)
    give_back(first)
    give_back(gateway.ask("a", **limits), second)
    assert gateway.admission._inflight == 0


def test_a_call_that_a_limit_refuses_uses_up_nothing_and_is_no_overload_of_the_gateway() -> None:
    gateway, limits = Gateway(), dict[str, Any]({"calls_per_s": 1.0, "burst": 2.0, "bytes_per_s": 10.0})
    give_back(gateway.ask("a", size=10, **limits))
    with pytest.raises(Overloaded, match="bytes"):
        gateway.ask("a", size=10, **limits)
    give_back(gateway.ask("a", **limits))
    assert gateway.admission._limit._refused == 0


def test_a_changed_limit_holds_for_the_next_call() -> None:
    gateway = Gateway()
    give_back(*(gateway.ask("a") for _ in range(20)))
    gateway.at_s = 0.001
    give_back(*(gateway.ask("a", calls_per_s=5.0) for _ in range(5)))
    with pytest.raises(Overloaded):
        gateway.ask("a", calls_per_s=5.0)


def test_callers_without_a_key_have_no_limits_and_no_shares() -> None:
    assert len(Gateway(64).fill("")) == 64


def test_a_key_that_asks_alone_leaves_room_for_the_next_one() -> None:
    gateway = Gateway(64)
    assert len(gateway.fill("greedy")) == 56
    assert len([gateway.ask("polite") for _ in range(8)]) == 8


def test_a_greedy_key_has_no_more_than_its_share_while_another_asks_and_more_when_none_does() -> None:
    gateway = Gateway(64)
    held, polite = gateway.fill("greedy"), [gateway.ask("polite") for _ in range(8)]
    while len(held) > 32:
        gateway.at_s += 0.1
        give_back(held.pop())
        with pytest.raises(Overloaded):  # What ends is not given to who has its share.
            gateway.ask("greedy")
        polite.append(gateway.ask("polite"))
    assert len(polite) == 32
    give_back(*polite)
    gateway.at_s += 2 * ASKING_S
    assert len(held + gateway.fill("greedy")) == 56


def test_a_polite_key_is_never_refused_beside_a_greedy_one() -> None:
    gateway = Gateway(64)
    gateway.fill("greedy")
    for _ in range(1000):
        gateway.at_s += 0.01
        give_back(gateway.ask("polite"))
        with pytest.raises(Overloaded):
            gateway.ask("greedy")


def test_shares_do_not_hold_while_half_of_the_permits_are_free() -> None:
    gateway = Gateway(64)
    give_back(*(gateway.ask(f"idle {number}") for number in range(60)))
    assert len([gateway.ask("a") for _ in range(32)]) == 32


def test_idle_callers_are_forgotten() -> None:
    gateway = Gateway()
    for number in range(2000):
        gateway.at_s = number
        give_back(gateway.ask(str(number)))
    assert len(gateway.keys._usages) <= 1024


@pytest.mark.parametrize(
    ("limits", "exact", "limit", "error"),
    [
        ({"exact": False}, True, 10, PermissionDenied),
        ({"max_limit": 50}, False, 51, InvalidRequest),
        ({"max_limit": 50}, True, 50, None),
        ({"calls_per_s": inf}, True, 1000, None),
    ],
)
def test_a_search_that_a_key_may_not_ask_for_is_refused(
    limits: dict[str, Any], exact: bool, limit: int, error: type[Exception] | None
) -> None:
    with Gateway().caller("a", **limits):
        if error is None:
            check_search(exact=exact, limit=limit)
        else:
            with pytest.raises(error):
                check_search(exact=exact, limit=limit)


def test_who_calls_again_too_soon_is_refused_before_the_call_is_read_and_late() -> None:
    gateway, limits = Gateway(), dict[str, Any](calls_per_s=10.0, burst=1.0)
    call = Call("")
    call.caller = Caller("a", frozenset({"search"}), CallerLimits(**limits))
    gateway.keys.check_open(call)
    give_back(gateway.ask("a", **limits))
    gateway.keys.check_open(call)
    with pytest.raises(Overloaded) as first:
        gateway.ask("a", **limits)
    with pytest.raises(Overloaded) as again:
        gateway.keys.check_open(call)
    assert (first.value.delay_s, again.value.delay_s) == (0.0, 0.25)
    assert again.value.retry_after_s == pytest.approx(0.1)
    gateway.at_s = 0.1
    gateway.keys.check_open(call)
    give_back(gateway.ask("a", **limits))


def test_who_has_too_many_calls_in_flight_may_call_again_when_one_ends() -> None:
    gateway, limits = Gateway(), dict[str, Any](concurrency=1)
    call = Call("")
    call.caller = Caller("a", frozenset({"search"}), CallerLimits(**limits))
    held = gateway.ask("a", **limits)
    with pytest.raises(Overloaded):
        gateway.ask("a", **limits)
    with pytest.raises(Overloaded):
        gateway.keys.check_open(call)
    give_back(held)
    gateway.keys.check_open(call)


def test_only_so_many_refusals_are_late_at_once() -> None:
    gateway, limits = Gateway(), dict[str, Any](concurrency=1)
    call = Call("")
    call.caller = Caller("a", frozenset({"search"}), CallerLimits(**limits))
    gateway.ask("a", **limits)
    with pytest.raises(Overloaded):
        gateway.ask("a", **limits)
    late = 0
    for _ in range(1000):
        with pytest.raises(Overloaded) as caught:
            gateway.keys.check_open(call)
        late += caught.value.delay_s > 0
    assert late == 512
