"""Keys: tokens, and the document of a store."""

from __future__ import annotations

from hashlib import sha256
from math import nan
from typing import Any

import pytest

from lookalike.access.key import AccessKey, digest_of, from_document, id_of, new_key, to_document
from lookalike.errors import BadArtifact, BadSettings
from lookalike.runtime.call import NO_LIMITS, CallerLimits

SEARCH = frozenset({"search"})


def a_key(**fields: Any) -> AccessKey:
    return new_key("shop", SEARCH, now_s=1000, **fields)[0]


def test_a_token_has_the_id_and_256_random_bits_that_the_key_does_not_have() -> None:
    (key, token), (_, other) = new_key("shop", SEARCH, now_s=1000), new_key("shop", SEARCH, now_s=1000)
    prefix, id_, secret = token.split("_")
    assert (prefix, id_, len(bytes.fromhex(secret))) == ("lk", key.id, 32)
    assert secret not in other
    assert key.digest == sha256(token.encode()).digest()
    assert secret not in repr(key) + str(to_document(key))


def test_what_is_not_written_as_a_token_has_no_id() -> None:
    _, token = new_key("shop", SEARCH, now_s=1000)
    assert id_of(token) == token.split("_")[1]
    for text in ("", "lk_", token[:-1], token + "\n", token.upper(), "lk_é_" + "0" * 64, " " + token):
        assert id_of(text) is None
    assert digest_of("\udcff")  # What a header has is no reason to fail.


def test_a_name_in_a_certificate_has_no_token() -> None:
    key, token = new_key("worker", SEARCH, now_s=1000, identity="worker.shop.internal")
    assert (token, key.digest, key.caller().id) == ("", b"", "worker.shop.internal")


def test_a_document_is_the_key_that_it_was_made_of() -> None:
    limits = CallerLimits(calls_per_s=5, burst=20, concurrency=2, exact=False, max_limit=50)
    for key in (a_key(), a_key(expires_s=2000, limits=limits), a_key(identity="worker")):
        assert from_document(to_document(key)) == key
    assert from_document(to_document(a_key())).limits is NO_LIMITS  # Which callers are known by that have none.


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scopes", []),
        ("scopes", ["root"]),
        ("scopes", 7),
        ("name", ""),
        ("name", "a\nb"),
        ("sha256", "00"),
        ("sha256", "no hex"),
        ("identity", "both"),
        ("limits", {"speed": 1}),
        ("limits", {"calls_per_s": 0}),
        ("limits", {"calls_per_s": nan}),
        ("limits", {"burst": 0.5}),
        ("limits", {"exact": 1}),
        ("limits", {"max_limit": 5000}),
        ("expires_s", "soon"),
        ("colour", "red"),
    ],
)
def test_a_document_that_no_key_has_is_refused_by_the_id_of_the_key(field: str, value: object) -> None:
    key = a_key()
    with pytest.raises(BadArtifact, match=key.id):
        from_document({**to_document(key), field: value})


def test_a_new_key_without_a_known_scope_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(BadSettings, match="search, read, write, admin"):
        new_key("shop", frozenset({"root"}), now_s=1000)


def test_a_name_in_a_certificate_cannot_pass_for_the_id_of_a_key() -> None:
    with pytest.raises(BadSettings, match="could be the id"):
        a_key(identity=a_key().id)
