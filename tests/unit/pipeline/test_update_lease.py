"""The lease that keeps two updates of an object store apart, with clocks that tests turn."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lookalike import timestamps
from lookalike.errors import OperatorError
from lookalike.releases.owner import owner_name
from lookalike.releases.store import ObjectStore
from pipeline.update import lease as lease_module
from pipeline.update.lease import LEASE, Lease, LeaseSettings, hold_lease
from tests import stores
from tests.unit.pipeline.updates import Shop

TTL_S = 60.0


class Time:
    """A clock that sleeping turns; `between` happens during each sleep."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.between: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds
        self.between()

    @property
    def settings(self) -> LeaseSettings:
        return LeaseSettings(ttl_s=TTL_S, pause_s=1.0, sleep=self.sleep, clock=lambda: self.now_s)


@pytest.fixture(params=["memory", "s3"])
def store(request: pytest.FixtureRequest) -> Any:
    if request.param == "memory":
        yield stores.in_memory()
    else:
        with stores.s3() as options:
            yield stores.in_bucket(options)


def acquired(store: ObjectStore, time: Time, said: list[str] | None = None) -> Lease:
    lease = Lease(store, time.settings)
    lease.acquire((said if said is not None else []).append)
    return lease


def test_a_lease_that_is_renewed_refuses_a_second_update_and_names_its_owner(store: ObjectStore) -> None:
    time = Time()
    first = acquired(store, time)
    time.between = first.check

    with pytest.raises(OperatorError, match=f"another update is running here, of {owner_name()}"):
        acquired(store, time)

    assert time.now_s <= 1 + TTL_S / 10
    first.check()


def test_the_lease_of_an_update_that_died_is_taken_over_and_that_is_told(store: ObjectStore) -> None:
    time, said = Time(), list[str]()
    dead = acquired(store, time)

    second = acquired(store, time, said)

    assert time.now_s >= TTL_S
    assert "has not renewed its lease for 60 s" in said[0]
    second.check()
    with pytest.raises(OperatorError, match="another update is running here"):
        dead.check()


def test_a_lease_that_is_released_while_another_waits_is_taken_at_once(store: ObjectStore) -> None:
    time = Time()
    first = acquired(store, time)
    time.between = first.release

    acquired(store, time).check()

    assert time.now_s < TTL_S


def test_of_two_that_take_over_the_same_lease_one_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    store, time, other = stores.in_memory(), Time(), Time()
    acquired(store, time)
    rival = Lease(store, other.settings)
    write = store.write_file

    def write_after_a_rival(path: str, data: bytes) -> None:
        monkeypatch.setattr(store, "write_file", write)
        rival.acquire(lambda _: None)  # It has watched as long, and writes between the watching and the writing.
        write(path, data)

    monkeypatch.setattr(store, "write_file", write_after_a_rival)

    acquired(store, time).check()

    with pytest.raises(OperatorError, match="another update is running here"):
        rival.check()


@pytest.mark.parametrize("jump_s", [-86_400.0, 86_400.0])
def test_a_clock_that_jumps_neither_ends_a_lease_nor_makes_it_longer(
    monkeypatch: pytest.MonkeyPatch, jump_s: float
) -> None:
    store, time = stores.in_memory(), Time()
    first = acquired(store, time)
    jumped = timestamps.unix_time_s() + jump_s
    monkeypatch.setattr(lease_module, "unix_time_s", lambda: jumped)
    time.between = first.check
    with pytest.raises(OperatorError, match="another update is running"):
        acquired(store, time)

    time.between = lambda: None
    start_s = time.now_s
    acquired(store, time)

    assert TTL_S <= time.now_s - start_s <= 1.2 * TTL_S


def test_a_lease_is_renewed_in_the_background_and_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    store, renewed = stores.in_memory(), threading.Event()
    write = store.write_file

    def observed(path: str, data: bytes) -> None:
        write(path, data)
        if json.loads(data)["renewals"] >= 3:
            renewed.set()

    monkeypatch.setattr(store, "write_file", observed)
    with hold_lease(store, LeaseSettings(ttl_s=0.03, pause_s=0.0)):
        assert renewed.wait(30)
        assert store.read_file(LEASE) is not None
    assert store.read_file(LEASE) is None


def test_an_update_that_lost_its_lease_lets_nothing_serve(shop: Shop) -> None:
    store = stores.in_memory()
    lost = Shop(shop.directory, shop.options, store)

    class Thief:
        refused, checks = False, ()

        def as_json(self) -> dict[str, Any]:
            return {}

        def __call__(self, location: Path, candidate: str, live: str | None, *, golden: Path | None) -> Thief:
            store.write_file(LEASE, b'{"owner": "thief@elsewhere", "token": "x"}')
            return self

    with pytest.raises(OperatorError, match="another update is running here, of thief@elsewhere"):
        lost.update(verify=Thief(), lease=LeaseSettings(pause_s=0.0))

    assert store.read_file("CURRENT") is None
    assert store.read_file(LEASE) is not None
