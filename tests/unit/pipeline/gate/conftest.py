"""Releases that the tests of this folder share: encoders are trained once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.pipeline.gate.releases import Shop


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Shop:
    return Shop.make(tmp_path_factory.mktemp("shop"))


@pytest.fixture(scope="session")
def live(shop: Shop) -> str:
    """The release that serves. Nobody may change it."""
    name = shop.build()
    (shop.location / "CURRENT").write_text(f"{name}\n")
    return name


@pytest.fixture(scope="session")
def next_night(shop: Shop) -> str:
    """A candidate that lacks 40 of 800 products. Nobody may change it."""
    return shop.build(shop.content.take(range(40, len(shop.content.products))))


@pytest.fixture
def copied(shop: Shop, tmp_path: Path) -> Shop:
    """A location of one's own, to damage what is built there."""
    location = tmp_path / "index"
    location.mkdir()
    return Shop(location=location, text=shop.text, product=shop.product, content=shop.content)
