"""What looks at gateways before and after a release begins to serve, and its verdict. Reads metrics pages (HTTP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Protocol

from lookalike.credentials import ApiKey
from pipeline import release_watch
from pipeline.gateway_metrics import Reading
from pipeline.release_watch import Baseline, Outcome, WatchSettings, page_reader


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


class GatewayVerdict:
    """The verdict on gateways by their metrics pages: bad unless all moved to the release and are well."""

    def __init__(self, verdict: release_watch.WatchVerdict) -> None:
        self._verdict = verdict

    @property
    def bad(self) -> bool:
        return self._verdict.outcome is not Outcome.OK

    @property
    def reasons(self) -> Sequence[str]:
        return self._verdict.reasons

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self._verdict), "outcome": self._verdict.outcome.value, "unjudged": self._verdict.unjudged}


class GatewayWatch:
    """Watches gateways by the URLs of their metrics pages, for `watch_s` seconds after all have moved."""

    def __init__(self, metrics: Sequence[str], watch_s: float, api_key: ApiKey | None = None) -> None:
        self._settings = WatchSettings(metrics=tuple(metrics), watch_s=watch_s, api_key=api_key)
        self._read = page_reader(self._settings)

    async def read(self) -> str:
        return (await self._read()).dump()

    async def watch(self, start: str, end: str, version: str) -> GatewayVerdict:
        baseline = Baseline(start=Reading.load(start), end=Reading.load(end))
        return GatewayVerdict(await release_watch.watch_release(self._settings, baseline, version, read=self._read))
