"""The methods of Admin that are about API keys. I/O to the store of keys, on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from lookalike.access.key import AccessKey, new_key
from lookalike.access.key_store import KeyStore
from lookalike.errors import BadArtifact, BadSettings, InvalidRequest, NotFound, OperatorError, Unavailable
from lookalike.limits import MAX_ID_BYTES
from lookalike.runtime.call import CallerLimits
from lookalike.runtime.deadline import Deadline
from lookalike.timestamps import unix_time_s
from lookalike.v1 import admin_pb2

Result = TypeVar("Result")

_NUMBERS = ("calls_per_s", "burst", "concurrency", "bytes_per_s", "photos_per_s", "max_limit")
_UNREADABLE = "the store of API keys cannot be read or written"


class Keys:
    """The API keys in a store, which is asked from one thread at a time. For use on one event loop."""

    def __init__(self, store: KeyStore) -> None:
        self._store = store
        self._asking = asyncio.Lock()

    async def list_keys(self, request: admin_pb2.ListKeysRequest, deadline: Deadline) -> admin_pb2.ListKeysResponse:
        stored = await self._ask(self._store.read)
        return admin_pb2.ListKeysResponse(keys=map(_message_of, stored.keys if stored else ()))

    async def create_key(self, request: admin_pb2.CreateKeyRequest, deadline: Deadline) -> admin_pb2.CreateKeyResponse:
        now_s = int(unix_time_s())
        if request.HasField("expires_s") and request.expires_s <= now_s:
            raise InvalidRequest("expires_s", "is in the past")
        try:
            key, token = new_key(
                request.name,
                frozenset(request.scopes),
                now_s=now_s,
                expires_s=request.expires_s if request.HasField("expires_s") else None,
                limits=_limits_of(request.limits),
                identity=request.identity,
            )
        except BadSettings as error:
            raise InvalidRequest("key", str(error)) from error
        await self._ask(lambda: self._store.put(key))
        return admin_pb2.CreateKeyResponse(key=_message_of(key), token=token)

    async def revoke_key(self, request: admin_pb2.RevokeKeyRequest, deadline: Deadline) -> admin_pb2.RevokeKeyResponse:
        if not await self._ask(lambda: self._store.remove(request.id)):
            raise NotFound(f"there is no key {request.id[:MAX_ID_BYTES]}")
        return admin_pb2.RevokeKeyResponse()

    def close(self) -> None:
        self._store.close()

    async def _ask(self, work: Callable[[], Result]) -> Result:
        async with self._asking:
            with _told():
                return await asyncio.to_thread(work)


@contextmanager
def _told() -> Iterator[None]:
    """Raise what a store raises as what callers are told: neither where it is nor what it is."""
    try:
        yield
    except BadSettings as error:  # Another key has the same name in certificates.
        raise InvalidRequest("key", str(error)) from error
    except Unavailable as error:
        raise error.hidden_as(_UNREADABLE) from error.__cause__
    except (BadArtifact, OperatorError) as error:
        raise Unavailable(str(error)).hidden_as(_UNREADABLE) from error


def _limits_of(message: admin_pb2.KeyLimits) -> CallerLimits:
    given = {name: getattr(message, name) for name in _NUMBERS if message.HasField(name)}  # type: ignore[arg-type]  # one of the literals
    return CallerLimits(exact=not message.no_exact, **given)


def _message_of(key: AccessKey) -> admin_pb2.ApiKey:
    limits, unlimited = admin_pb2.KeyLimits(no_exact=not key.limits.exact), CallerLimits()
    for name in _NUMBERS:
        if (value := getattr(key.limits, name)) != getattr(unlimited, name):
            setattr(limits, name, value)
    return admin_pb2.ApiKey(
        id=key.id,
        name=key.name,
        scopes=sorted(key.scopes),
        identity=key.identity,
        created_s=key.created_s,
        expires_s=key.expires_s,
        limits=limits,
    )
