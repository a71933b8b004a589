"""What looks at a release after it began to serve, and its verdict: whoever composes an update says what. Pure."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol


class WatchVerdict(Protocol):
    """What was seen."""

    @property
    def bad(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """Sentences on what is out of bounds."""

    def as_json(self) -> dict[str, Any]: ...


Watch = Callable[[], Awaitable[WatchVerdict]]
