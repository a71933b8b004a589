"""The guard: which calls pass by which keys, and what those learn that do not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import REGISTRY

from lookalike.access.guard import KeyGuard, KeyTable
from lookalike.access.key import AccessKey, new_key
from lookalike.errors import PermissionDenied, Unauthenticated, Unavailable
from lookalike.runtime.call import Call, CallerLimits

SEARCH, GET = "/lookalike.v1.SimilarProducts/Search", "/lookalike.v1.Catalog/Get"


class Guarded:
    """A guard by two keys and a name in certificates, with clocks that a test sets."""

    def __init__(self) -> None:
        self.at_s, self.unix_s = 0.0, 1000.0
        self.shop, self.token = new_key(
            "shop", frozenset({"search"}), now_s=0, expires_s=2000, limits=CallerLimits(concurrency=3)
        )
        self.reader, self.reader_token = new_key("reader", frozenset({"read"}), now_s=0)
        self.worker, _ = new_key("worker", frozenset({"read", "write"}), now_s=0, identity="worker.internal")
        self.guard = KeyGuard(max_age_s=60, clock=lambda: self.at_s, now_s=lambda: self.unix_s)
        self.set(self.shop, self.reader, self.worker)

    def set(self, *keys: AccessKey) -> None:
        self.guard.confirm(KeyTable(keys))

    def call(
        self, authorization: str = "", method: str = SEARCH, *identities: str, peer: str = "ipv4:10.0.0.7:1"
    ) -> Call:
        call = Call(method, (("authorization", authorization),) if authorization else (), peer, identities)
        self.guard(call)
        return call


@pytest.fixture
def guarded() -> Guarded:
    return Guarded()


def refused(reason: str) -> float:
    return REGISTRY.get_sample_value("lookalike_callers_refused_total", {"reason": reason}) or 0.0


def test_a_call_with_a_key_is_of_its_caller(guarded: Guarded) -> None:
    caller = guarded.call(f"Bearer {guarded.token}").caller
    assert (caller.id, caller.limits.concurrency) == (guarded.shop.id, 3)
    assert caller.scopes == {"search"}


def test_a_call_with_a_certificate_is_of_the_name_in_it_unless_it_has_a_key(guarded: Guarded) -> None:
    assert guarded.call("", GET, "other", "worker.internal").caller.id == "worker.internal"
    assert guarded.call(f"Bearer {guarded.reader_token}", GET, "worker.internal").caller.id == guarded.reader.id
    with pytest.raises(Unauthenticated):
        guarded.call(f"Bearer {guarded.token[:-1]}0", GET, "worker.internal")


@pytest.mark.parametrize(
    ("reason", "authorization"),
    [
        ("missing", ""),
        ("malformed", "Basic dXNlcjpwYXNz"),
        ("unknown", "Bearer "),
        ("unknown", "Bearer lk_000000000000_" + "0" * 64),
        ("unknown", "Bearer ID_WITH_ANOTHER_SECRET"),
        ("unknown", "Bearer \udcff"),
    ],
)
def test_a_call_without_a_valid_key_is_refused_and_learns_nothing_of_why(
    guarded: Guarded, reason: str, authorization: str
) -> None:
    before = refused(reason)
    wrong_secret = f"lk_{guarded.shop.id}_" + "0" * 64
    with pytest.raises(Unauthenticated) as caught:
        guarded.call(authorization.replace("ID_WITH_ANOTHER_SECRET", wrong_secret))
    assert str(caught.value) == "no valid API key: send `authorization: Bearer lk_…`"
    assert refused(reason) == before + 1


def test_a_key_is_refused_from_the_moment_that_it_expires(guarded: Guarded) -> None:
    guarded.unix_s = 1999.9
    guarded.call(f"Bearer {guarded.token}")
    guarded.unix_s = 2000
    with pytest.raises(Unauthenticated):
        guarded.call(f"Bearer {guarded.token}")


def test_a_key_without_the_scope_of_the_method_is_denied_with_the_scope_that_it_needs(guarded: Guarded) -> None:
    with pytest.raises(PermissionDenied, match="scope read"):
        guarded.call(f"Bearer {guarded.token}", GET)


def test_a_name_in_a_certificate_is_no_secret(guarded: Guarded) -> None:
    with pytest.raises(Unauthenticated):
        guarded.call(f"Bearer lk_{guarded.worker.id}_" + "0" * 64, GET)


def test_a_call_that_goes_on_has_the_limits_of_now_and_is_refused_once_its_key_is_revoked(
    guarded: Guarded,
) -> None:
    call = guarded.call(f"Bearer {guarded.token}")
    guarded.set(replace(guarded.shop, limits=CallerLimits(concurrency=9)))
    guarded.guard.renew(call)
    assert call.caller.limits.concurrency == 9
    guarded.set(guarded.reader)
    with pytest.raises(Unauthenticated):
        guarded.guard.renew(call)


def test_keys_that_are_too_old_let_nobody_in_until_the_store_answers(guarded: Guarded) -> None:
    guarded.at_s = 60
    guarded.call(f"Bearer {guarded.token}")
    guarded.at_s = 61
    with pytest.raises(Unavailable):
        guarded.call(f"Bearer {guarded.token}")
    guarded.guard.confirm()
    guarded.call(f"Bearer {guarded.token}")


def test_an_address_that_is_refused_again_and_again_waits_for_it_and_no_other_does(guarded: Guarded) -> None:
    delays = []
    for peer in [*["ipv4:10.0.0.7:1", "ipv4:10.0.0.7:2"] * 20, "ipv4:10.0.0.8:1"]:
        with pytest.raises(Unauthenticated) as caught:
            guarded.call(peer=peer)
        delays.append(caught.value.delay_s)
    assert delays[:10] == [0.0] * 10
    assert delays[10] == pytest.approx(0.1)
    assert delays[39] == pytest.approx(2.0)
    assert delays[40] == 0.0
