"""Opens the store of keys that an address names. No I/O yet."""

from __future__ import annotations

from pathlib import Path

from lookalike.access.key_store import KeyStore
from lookalike.errors import BadSettings

REDIS_SCHEMES = ("redis://", "rediss://", "unix://")


def open_key_store(address: str) -> KeyStore:
    """The store at a path, or at a URL of Redis. Raises BadSettings; nothing is connected yet."""
    if address.startswith(REDIS_SCHEMES):
        from lookalike.access.redis_key_store import RedisKeyStore

        return RedisKeyStore(address)
    if "://" in address:
        raise BadSettings(f"keys: a path, or a URL that begins with {', '.join(REDIS_SCHEMES)}")
    from lookalike.access.file_key_store import FileKeyStore

    return FileKeyStore(Path(address))
