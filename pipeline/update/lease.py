"""A lease that keeps two updates of one object store apart. Network I/O, and a thread that renews it.

LOCATION/update-lease.json names its owner. It is created where there is none, which the store refuses to the second of
two that come at once if it can, and read back after a pause, which shows who was last if it cannot. Its owner writes it
anew three times in `ttl_s`. Whoever finds another's lease watches it: one that changes is alive, and the update is
refused; one that does not change for `ttl_s` is that of an update that died, and is taken over.

No two clocks are compared: time is measured by the monotonic clock of the one who watches. So a clock that jumps, or
that differs from another machine's, neither ends a lease nor makes it longer; `expires_at` is for people to read. What
is not promised: an owner that stands still for longer than `ttl_s` (a machine that is suspended) is taken over, and
learns it when it renews the lease or checks it, as it does before CURRENT is written. Between that check and the
request that writes CURRENT another update may begin; both publish complete versions, and the last one serves.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from lookalike.errors import LookalikeError, OperatorError
from lookalike.releases.owner import owner_name
from lookalike.releases.store import ObjectStore
from lookalike.strict_json import parse_json
from lookalike.timestamps import unix_time_s

LEASE = "update-lease.json"
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSettings:
    """ttl_s: how long a lease is respected that its owner does not renew. pause_s: between writing and reading back,
    longer than a request takes."""

    ttl_s: float = 60.0
    pause_s: float = 1.0
    sleep: Callable[[float], None] = field(default=time.sleep)
    clock: Callable[[], float] = field(default=time.monotonic)


DEFAULT_SETTINGS = LeaseSettings()


class Lease:
    """A lease that is held, until it is released or another update takes it over."""

    def __init__(self, store: ObjectStore, settings: LeaseSettings) -> None:
        self._store = store
        self._settings = settings
        self._token = uuid4().hex
        self._renewals = 0
        self._lock = threading.Lock()
        self._ended = threading.Event()

    def acquire(self, warn: Callable[[str], None]) -> None:
        """Raises OperatorError while another update holds it. warn: told of one that died and is taken over."""
        if not self._store.create_file(LEASE, self._body()):
            found = self._watch_until_dead()
            if found is not None:
                warn(
                    f"{self._store}: the update of {_owner(found)} has not renewed its lease for "
                    f"{self._settings.ttl_s:g} s, so it has died: its lease is taken over"
                )
                self._store.write_file(LEASE, self._body())
            elif not self._store.create_file(LEASE, self._body()):
                raise self._held(self._store.read_file(LEASE))
        self._settings.sleep(self._settings.pause_s)
        self.check()

    def _watch_until_dead(self) -> bytes | None:
        """What does not change for as long as a lease is respected; None: it was released meanwhile."""
        found = self._store.read_file(LEASE)
        give_up_s = self._settings.clock() + self._settings.ttl_s
        while found is not None and self._settings.clock() < give_up_s:
            self._settings.sleep(self._settings.ttl_s / 10)
            now = self._store.read_file(LEASE)
            if now is not None and now != found:
                raise self._held(now)
            found = now
        return found

    def check(self) -> None:
        """Renew it. Raises OperatorError if another update has taken it over, or if the store cannot be asked."""
        with self._lock:
            found = self._store.read_file(LEASE)
            if found is None or _parse(found).get("token") != self._token:
                self._ended.set()
                raise self._held(found)
            self._renewals += 1
            self._store.write_file(LEASE, self._body())

    def renew_until_ended(self) -> None:
        """For a thread of its own. A store that cannot be reached is tried again: `check` tells who publishes."""
        while not self._ended.wait(self._settings.ttl_s / 3):
            try:
                self.check()
            except LookalikeError as error:
                log.warning("the lease of the update was not renewed: %s", error)

    def release(self) -> None:
        """Remove it, if it is still this one."""
        self._ended.set()
        with self._lock:
            found = self._store.read_file(LEASE)
            if found is not None and _parse(found).get("token") == self._token:
                self._store.remove_file(LEASE)

    def _held(self, found: bytes | None) -> OperatorError:
        return OperatorError(f"{self._store}: another update is running here, of {_owner(found)}")

    def _body(self) -> bytes:
        expires = datetime.fromtimestamp(unix_time_s() + self._settings.ttl_s, UTC).isoformat(timespec="seconds")
        body = {"owner": owner_name(), "token": self._token, "renewals": self._renewals, "expires_at": expires}
        return json.dumps(body).encode()


@contextmanager
def hold_lease(
    store: ObjectStore, settings: LeaseSettings = DEFAULT_SETTINGS, *, warn: Callable[[str], None] = log.warning
) -> Iterator[Lease]:
    """Hold the lease of a location for the block. Raises OperatorError while another update holds it."""
    lease = Lease(store, settings)
    lease.acquire(warn)
    thread = threading.Thread(target=lease.renew_until_ended, name="update-lease", daemon=True)
    thread.start()
    try:
        yield lease
    finally:
        try:
            lease.release()
        except LookalikeError as error:  # It ends by itself.
            log.warning("the lease of the update was not removed: %s", error)
        thread.join()


def _parse(found: bytes) -> dict[str, Any]:
    try:
        body = parse_json(found)
    except ValueError:
        return {}
    return body if isinstance(body, dict) else {}


def _owner(found: bytes | None) -> str:
    return str(_parse(found).get("owner", "somebody")) if found is not None else "somebody"
