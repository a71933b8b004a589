"""Where keys are kept: one interface over a file and Redis. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from lookalike.access.key import AccessKey
from lookalike.errors import BadSettings


class StoredKeys(NamedTuple):
    """All keys at one time."""

    keys: Sequence[AccessKey]  # By rising time of creation.
    generation: str  # Another one where anything has changed.


class KeyStore(Protocol):
    """A store of keys. Its methods block; they raise Unavailable while it is down, and BadArtifact if it is damaged."""

    def read(self, known: str = "") -> StoredKeys | None:
        """All keys; None: nothing has changed since the generation `known`.

        A store that was never written to has no keys. One that has lost what it had at `known` is Unavailable.
        """

    def put(self, key: AccessKey) -> None:
        """Add a key, or replace the one of its id. No two names in certificates are the same: BadSettings."""

    def remove(self, id_: str) -> bool:
        """Remove the key of an id. Returns whether there was one."""

    def close(self) -> None: ...


def check_identity(key: AccessKey, others: Sequence[AccessKey]) -> None:
    """Raises BadSettings where another entry has the same name in certificates."""
    if key.identity and any(each.identity == key.identity and each.id != key.id for each in others):
        raise BadSettings(f"identity {key.identity}: there is an entry of it already")
