"""Values from outside, written so that a terminal can print them. Pure."""

from __future__ import annotations

_MAX_CHARS = 64


def quote(value: object) -> str:
    """Quote and escape a value from outside for a message; cut after 64 characters."""
    text = escape_unprintable(value if isinstance(value, str) else str(value))
    return f'"{text[:_MAX_CHARS]}…"' if len(text) > _MAX_CHARS else f'"{text}"'


def escape_unprintable(text: str) -> str:
    """Write control characters and lone surrogates as escapes: messages go to terminals."""
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
