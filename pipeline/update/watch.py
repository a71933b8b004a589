"""What looks at gateways before and after a release begins to serve, and its verdict. Pure: it is passed in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol


class WatchVerdict(Protocol):
    """What was seen."""

    @property
    def bad(self) -> bool: ...

    @property
    def reasons(self) -> Sequence[str]:
        """Sentences on what is out of bounds."""

    def as_json(self) -> dict[str, Any]: ...


class Watch(Protocol):
    """Readings are texts, which are kept with the progress of an update: another process may watch what one published.

    A reading is taken when an update begins and when it is about to publish: between them is how things were before.
    """

    async def read(self) -> str: ...

    async def watch(self, start: str, end: str, version: str) -> WatchVerdict: ...
