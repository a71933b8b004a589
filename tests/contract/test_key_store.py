"""What every store of keys does, in a file and in Redis."""

from __future__ import annotations

import json
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from redis import Redis

from lookalike.access.key import AccessKey, new_key
from lookalike.access.key_store import KeyStore, StoredKeys
from lookalike.access.open_store import open_key_store
from lookalike.access.redis_key_store import GENERATION, KEYS
from lookalike.errors import BadArtifact, BadSettings, Unavailable
from lookalike.runtime.call import CallerLimits

Address = str


def a_key(name: str = "shop", *, now_s: int = 1000, identity: str = "") -> AccessKey:
    limits = CallerLimits(calls_per_s=5.5, exact=False)
    return new_key(name, frozenset({"search", "read"}), now_s=now_s, limits=limits, identity=identity)[0]


@pytest.fixture(params=["file", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Address]:
    if request.param == "file":
        yield str(tmp_path / "keys.json")
        return
    url = request.getfixturevalue("redis_url")
    with Redis.from_url(url) as redis:
        redis.delete(KEYS, GENERATION)
        yield url
        redis.delete(KEYS, GENERATION)


@pytest.fixture
def store(address: Address) -> Iterator[KeyStore]:
    store = open_key_store(address)
    yield store
    store.close()


def read(store: KeyStore, known: str = "") -> StoredKeys:
    stored = store.read(known)
    assert stored is not None
    return stored


def test_a_store_that_was_never_written_to_has_no_keys(store: KeyStore) -> None:
    assert read(store).keys == ()


def test_what_is_put_is_read_by_others_oldest_first(store: KeyStore, address: Address) -> None:
    new, old, worker = a_key(now_s=3000), a_key(now_s=1000), a_key("worker", now_s=2000, identity="worker")
    for key in (new, old, worker):
        store.put(key)
    assert [*read(open_key_store(address)).keys] == [old, worker, new]


def test_a_put_of_an_id_that_is_there_replaces_the_key(store: KeyStore) -> None:
    key = a_key()
    store.put(key)
    store.put(replace(key, expires_s=2000))
    assert [each.expires_s for each in read(store).keys] == [2000]


def test_what_is_removed_is_gone_and_the_others_stay(store: KeyStore) -> None:
    first, second = a_key(), a_key()
    store.put(first)
    store.put(second)
    assert store.remove(first.id)
    assert not store.remove(first.id)
    assert [*read(store).keys] == [second]


def test_nothing_is_read_again_until_something_has_changed(store: KeyStore, address: Address) -> None:
    store.put(a_key())
    known = read(store).generation
    assert store.read(known) is None
    key = a_key()
    open_key_store(address).put(key)
    changed = read(store, known)
    assert key in changed.keys
    assert store.remove(key.id)
    assert read(store, changed.generation).generation != changed.generation


def test_a_name_in_certificates_has_one_entry(store: KeyStore) -> None:
    entry = a_key(identity="worker")
    store.put(entry)
    store.put(replace(entry, name="the same entry"))
    with pytest.raises(BadSettings, match="worker"):
        store.put(a_key(identity="worker"))


def test_changes_of_several_writers_are_all_kept(store: KeyStore, address: Address) -> None:
    keys = [a_key(str(number)) for number in range(20)]

    def put(share: list[AccessKey]) -> None:
        own = open_key_store(address)
        for key in share:
            own.put(key)

    threads = [threading.Thread(target=put, args=(keys[number::4],)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {key.id for key in read(store).keys} == {key.id for key in keys}


def test_a_store_that_has_lost_the_keys_is_down_to_who_knew_them(store: KeyStore, address: Address) -> None:
    store.put(a_key())
    known = read(store).generation
    if "://" in address:
        with Redis.from_url(address) as redis:
            redis.delete(KEYS, GENERATION)
    else:
        Path(address).unlink()
    with pytest.raises(Unavailable):
        store.read(known)


def test_a_damaged_document_is_refused_and_not_quoted(store: KeyStore, address: Address) -> None:
    store.put(a_key())
    damaged = '{"id": "1", "name": "a", "secret": "confidential"}'
    if "://" in address:
        with Redis.from_url(address) as redis:
            redis.hset(KEYS, "1", damaged)
    else:
        Path(address).write_text(f'{{"keys": [{damaged}]}}')
    with pytest.raises(BadArtifact, match="'1'") as caught:
        store.read()
    assert "confidential" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"keys": [7]}', "{" * 100_000, "\x00"])
def test_a_file_that_is_no_list_of_keys_is_refused_by_its_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(BadArtifact, match=r"keys\.json"):
        open_key_store(str(path)).read()


def test_only_the_owner_may_read_a_file_of_keys_whatever_it_was_before(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps({"keys": []}))
    path.chmod(0o644)
    open_key_store(str(path)).put(a_key())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {each.name for each in tmp_path.iterdir()} == {"keys.json", "keys.json.lock"}


def test_a_redis_that_cannot_be_reached_is_unavailable_and_its_password_is_not_told() -> None:
    with pytest.raises(Unavailable) as caught:
        open_key_store("redis://:confidential@127.0.0.1:1").read()
    assert "confidential" not in str(caught.value)


def test_an_address_of_another_kind_is_refused() -> None:
    with pytest.raises(BadSettings, match="redis://"):
        open_key_store("https://keys")
