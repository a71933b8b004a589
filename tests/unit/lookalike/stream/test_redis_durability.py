"""Which Redis may keep a stream."""

from __future__ import annotations

from typing import Any

import pytest

from lookalike.errors import BadSettings
from lookalike.stream.redis_durability import Durability, check_durability, persistence_of

INFO: dict[str, Any] = {"redis_version": "7.2.4", "aof_enabled": 1, "maxmemory": 0, "maxmemory_policy": "noeviction"}
CONFIG = {"appendonly": "yes", "appendfsync": "always", "maxmemory": "0", "maxmemory-policy": "noeviction"}


def check(config: dict[str, str] | None = None, *, trust: bool = False, **info: Any) -> Durability:
    """config: as CONFIG, but for these; {}: CONFIG is forbidden."""
    given = None if config == {} else {**CONFIG, **(config or {})}
    return check_durability(persistence_of(given, {**INFO, **info}), trust=trust)


def test_a_redis_that_syncs_each_write_is_used_as_it_is() -> None:
    assert check() == Durability(wait_for_fsync=False)


def test_a_redis_that_syncs_every_second_is_waited_for_where_that_is_possible_and_else_warned_of() -> None:
    assert check({"appendfsync": "everysec"}) == Durability(wait_for_fsync=True)
    assert check({"appendfsync": "everysec"}, redis_version="8.0.0").wait_for_fsync
    older = check({"appendfsync": "everysec"}, redis_version="7.0.15")
    assert not older.wait_for_fsync
    assert "two seconds of acknowledged events are lost" in older.notices[0]


@pytest.mark.parametrize(
    ("config", "info", "named"),
    [
        ({"appendonly": "no"}, {}, "appendonly is no"),
        ({"appendfsync": "no"}, {}, "appendfsync is no"),
        ({"maxmemory": "1", "maxmemory-policy": "volatile-ttl"}, {}, "maxmemory-policy is volatile-ttl"),
        ({}, {}, "does not tell its appendfsync"),
        ({}, {"aof_enabled": 0}, "appendonly is no"),
        ({}, {"aof_enabled": None}, "does not tell whether appendonly"),
        ({}, {"maxmemory": 1, "maxmemory_policy": "allkeys-lfu"}, "maxmemory-policy is allkeys-lfu"),
        ({}, {"maxmemory_policy": None}, "does not tell its maxmemory-policy"),
    ],
)
def test_a_redis_that_may_lose_events_is_refused_by_the_setting_and_only_noted_if_it_is_answered_for(
    config: dict[str, str], info: dict[str, Any], named: str
) -> None:
    with pytest.raises(BadSettings, match=named):
        check(config, **info)
    assert any(named in notice for notice in check(config, trust=True, **info).notices)


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(BadSettings, match=r"appendonly is no.*maxmemory-policy is allkeys-lru"):
        check({"appendonly": "no", "maxmemory": "5", "maxmemory-policy": "allkeys-lru"})


def test_an_eviction_policy_without_a_bound_on_memory_evicts_nothing() -> None:
    assert check({"maxmemory-policy": "allkeys-lru"}) == Durability(wait_for_fsync=False)


@pytest.mark.parametrize("version", ["6.0.16", "5.0.7"])
def test_a_redis_that_is_too_old_is_refused_whoever_answers_for_it(version: str) -> None:
    with pytest.raises(BadSettings, match=r"at least 6\.2"):
        check(trust=True, redis_version=version)
    with pytest.raises(BadSettings, match="no version"):
        check(redis_version="unknown")
