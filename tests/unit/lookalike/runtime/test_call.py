"""The call that a server answers."""

import re

import pytest

from lookalike.runtime.call import NO_CALL, Call, Caller, begin, current


def test_outside_of_calls_there_is_no_call() -> None:
    assert current() is NO_CALL


def test_a_value_is_the_first_text_of_its_key() -> None:
    call = Call("/a.B/C", (("x-a", "1"), ("x-a", "2"), ("x-bytes-bin", b"3")))
    assert (call.value("x-a"), call.value("x-bytes-bin"), call.value("x-none")) == ("1", "", "")


def test_the_request_id_is_the_callers_own() -> None:
    assert Call("", (("x-request-id", "order-7/a"),)).request_id() == "order-7/a"


@pytest.mark.parametrize("given", ["", "a\nb", "a b", "ü", "x" * 129])
def test_a_call_without_a_usable_request_id_has_one_of_its_own(given: str) -> None:
    call = Call("", (("x-request-id", given),))
    assert re.fullmatch("[0-9a-f]{16}", call.request_id())
    assert call.request_id() == call.request_id()
    assert call.request_id() != Call("").request_id()


def test_a_guard_may_say_who_calls() -> None:
    def guard(call: Call) -> None:
        call.caller = Caller("k1", frozenset({"search"}))

    call = Call("/a.B/C")
    begin(call, guard)
    try:
        assert current().caller.id == "k1"
    finally:
        begin(NO_CALL, None)
