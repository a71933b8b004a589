"""A process follows its store of keys, and goes on with what it knows while that is down."""

from __future__ import annotations

import logging

import pytest

from lookalike.access.followed_keys import FollowedKeys
from lookalike.access.guard import KeyGuard
from lookalike.access.key import AccessKey, new_key
from lookalike.access.key_store import StoredKeys
from lookalike.errors import BadArtifact, LookalikeError, OperatorError, Unauthenticated, Unavailable
from lookalike.runtime.call import Call


class MemoryStore:
    """A store that a test changes, and takes down."""

    def __init__(self) -> None:
        self.keys: dict[str, AccessKey] = {}
        self.changes = 0
        self.error: LookalikeError | None = None

    def read(self, known: str = "") -> StoredKeys | None:
        if self.error is not None:
            raise self.error
        generation = str(self.changes)
        return None if generation == known else StoredKeys([*self.keys.values()], generation)

    def put(self, key: AccessKey) -> None:
        self.keys[key.id] = key
        self.changes += 1

    def remove(self, id_: str) -> bool:
        self.changes += 1
        return self.keys.pop(id_, None) is not None

    def close(self) -> None: ...


class Followed:
    def __init__(self) -> None:
        self.store, self.at_s, self.refreshed = MemoryStore(), 0.0, 0
        self.key, self.token = new_key("shop", frozenset({"search"}), now_s=0)
        self.store.put(self.key)
        self.guard = KeyGuard(max_age_s=60, clock=lambda: self.at_s)
        self.keys = FollowedKeys(self.store, self.guard, lambda renew: self.count())

    def count(self) -> None:
        self.refreshed += 1

    def call(self) -> None:
        self.guard(Call("/lookalike.v1.SimilarProducts/Search", (("authorization", f"Bearer {self.token}"),)))


async def test_a_key_that_is_made_or_revoked_is_so_after_the_next_look() -> None:
    followed = Followed()
    await followed.keys.start()
    followed.call()
    followed.store.remove(followed.key.id)
    await followed.keys.refresh()
    with pytest.raises(Unauthenticated):
        followed.call()
    followed.store.put(followed.key)
    await followed.keys.refresh()
    followed.call()
    assert followed.refreshed == 2


@pytest.mark.parametrize("error", [Unavailable("the store is down"), BadArtifact("keys.json: not valid JSON")])
async def test_a_store_that_is_down_or_damaged_is_told_once_and_its_last_keys_go_on_for_a_while(
    error: LookalikeError, caplog: pytest.LogCaptureFixture
) -> None:
    followed = Followed()
    await followed.keys.start()
    followed.store.error, followed.at_s = error, 59.0
    with caplog.at_level(logging.ERROR):
        await followed.keys.refresh()
        await followed.keys.refresh()
    followed.call()
    assert [record.message for record in caplog.records] == [
        f"the API keys cannot be read; those known go on, and none is revoked: {error}"
    ]
    followed.at_s = 61.0
    with pytest.raises(Unavailable):
        followed.call()
    followed.store.error = None
    await followed.keys.refresh()
    followed.call()


async def test_a_process_does_not_start_without_its_store() -> None:
    followed = Followed()
    followed.store.error = Unavailable("the store is down")
    with pytest.raises(OperatorError, match="the store is down"):
        await followed.keys.start()
