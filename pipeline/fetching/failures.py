"""Why a photo could not be fetched, and whether to try again. Pure."""

from __future__ import annotations

from enum import StrEnum


class FetchCause(StrEnum):
    """Retries, dead letters and metrics are counted by this."""

    BAD_ADDRESS = "bad address"  # No URL or path that is fetched here.
    BLOCKED = "blocked address"  # Of a network that photos are not fetched from.
    NOT_FOUND = "not found"
    FORBIDDEN = "forbidden"
    TOO_MANY_REDIRECTS = "too many redirects"
    TOO_LARGE = "too large"
    NOT_A_PHOTO = "not a photo"
    BUSY = "busy"  # The server asks for patience.
    SERVER_ERROR = "server error"
    TIMED_OUT = "timed out"
    UNREACHABLE = "unreachable"
    CHANGED = "changed meanwhile"  # Cut short, or written while it was read.

    @property
    def is_temporary(self) -> bool:
        """Whether the same fetch may succeed later."""
        return self in _TEMPORARY


_TEMPORARY = frozenset(
    {FetchCause.BUSY, FetchCause.SERVER_ERROR, FetchCause.TIMED_OUT, FetchCause.UNREACHABLE, FetchCause.CHANGED}
)


class FetchError(Exception):
    """A photo could not be fetched. Its message has no query of a URL, which may hold a signature."""

    def __init__(self, cause: FetchCause, detail: str, *, retry_after_s: float = 0.0) -> None:
        super().__init__(f"{cause}: {detail}")
        self.cause = cause
        self.detail = detail
        self.retry_after_s = retry_after_s  # As the server asks; 0: it does not say.
