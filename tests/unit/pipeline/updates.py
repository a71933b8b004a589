"""Updates of a small catalogue without photos, by an encoder that is trained once. Fakes of the gate and the watch."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lookalike.releases.location import Directory
from lookalike.releases.store import ObjectStore
from pipeline.update.options import UpdateOptions
from pipeline.update.run import ReleaseOptions, UpdateResult, run_update
from tests.unit.pipeline.catalogues import write_jsonl

COUNT = 30
TITLES = ("red cotton shirt", "blue table lamp", "green silk dress", "white running shoe", "black leather bag")


def write_shop(directory: Path, *, price: int = 10, count: int = COUNT) -> Path:
    """A catalogue. Another price gives another version by the same encoder."""
    rows = [{"id": f"p{i}", "title": f"{TITLES[i % 5]} {i % 3}", "price": price + i} for i in range(count)]
    return write_jsonl(directory, *rows)


def options_of(shop: Path, location: Path, artifacts: Path) -> UpdateOptions:
    return UpdateOptions(
        catalogue=shop,
        location=location,
        artifacts=artifacts,
        connect_encoder=None,
        feature_store=location / ".features",
        text_kind="fasttext",
        shards=1,
    )


@dataclass(frozen=True)
class Check:
    name: str
    passed: bool
    sentence: str = "as it is"


@dataclass(frozen=True)
class Gate:
    """A gate that says this of every version; remembers what it was asked."""

    checks: Sequence[Check] = (Check("products", True),)
    asked: list[tuple[str, str | None]] = field(default_factory=list)

    @property
    def refused(self) -> bool:
        return not all(check.passed for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        return {"refused": self.refused, "checks": [check.__dict__ for check in self.checks]}

    def __call__(self, location: Path, candidate: str, live: str | None, *, golden: Path | None) -> Gate:
        assert (location / candidate).is_dir()
        assert live is None or (location / live).is_dir()
        self.asked.append((candidate, live))
        return self


@dataclass(frozen=True)
class Verdict:
    """A verdict, and the watch that gives it; remembers the readings that it was given."""

    reasons: Sequence[str] = ()
    readings: list[str] = field(default_factory=list)
    watched: list[tuple[str, str, str]] = field(default_factory=list)

    @property
    def bad(self) -> bool:
        return bool(self.reasons)

    def as_json(self) -> dict[str, Any]:
        return {"bad": self.bad, "reasons": list(self.reasons)}

    async def read(self) -> str:
        self.readings.append(f"reading {len(self.readings)}")
        return self.readings[-1]

    async def watch(self, start: str, end: str, version: str) -> Verdict:
        self.watched.append((start, end, version))
        return self


REFUSING = (Check("products", False, "30 products, of 60 that serve"), Check("recall", True))


@dataclass(frozen=True)
class Shop:
    """A catalogue, and the location that its releases go to."""

    directory: Path
    options: UpdateOptions
    location: Directory | ObjectStore
    said: list[str] = field(default_factory=list)

    def update(self, **release: Any) -> UpdateResult:
        return asyncio.run(
            run_update(self.options, ReleaseOptions(location=self.location, **release), say=self.said.append)
        )

    def change_prices(self, price: int) -> None:
        write_shop(self.directory, price=price)
