"""The API key that calls carry. Reads the file that has it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from lookalike.errors import BadSettings

# A token, or what gives the one of now: a key that is rotated is used without a new client.
ApiKey = str | Callable[[], str]
Authorization = Callable[[], tuple[tuple[str, str], ...] | None]


def authorization(api_key: ApiKey | None) -> Authorization:
    """The metadata of each call. Raises BadSettings, which does not quote it, for a key that no header can have."""
    if callable(api_key):
        give = api_key
        return lambda: _metadata(give())
    metadata = _metadata(api_key or "")
    return lambda: metadata


def _metadata(token: str) -> tuple[tuple[str, str], ...] | None:
    if not token:
        return None
    if not (token.isascii() and token.isprintable()) or " " in token:
        raise BadSettings("the API key has characters that no key has: is it the right file?")
    return (("authorization", f"Bearer {token}"),)


class KeyFile:
    """The key in a file, which is read again when it has changed. Raises BadSettings."""

    def __init__(self, path: str | Path) -> None:
        self._path = Path(path)
        self._state: tuple[int, int, int] | None = None
        self._token = ""

    def __call__(self) -> str:
        try:
            stat = os.stat(self._path)
            state = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
            if state != self._state:
                token = self._path.read_text("ascii").strip()
                if not token:
                    raise BadSettings(f"{self._path}: has no API key")
                self._token, self._state = token, state
        except (OSError, UnicodeDecodeError) as error:
            if not self._token:
                reason = error.strerror if isinstance(error, OSError) else "not an API key"
                raise BadSettings(f"{self._path}: {reason}") from None
        return self._token


def key_of(token: str, file: str | Path | None) -> ApiKey | None:
    """The key that settings give: itself, or in a file; None: neither. Raises BadSettings for both."""
    if token and file:
        raise BadSettings("an API key and a file of one: give one of them")
    if file:
        key_file = KeyFile(file)
        key_file()  # A file that is not there is an error now, and not with the first call.
        return key_file
    return token or None
