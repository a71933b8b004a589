"""Fixtures of updates."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from lookalike.releases.location import Directory
from pipeline.update.make import make_version
from tests.unit.pipeline.updates import Shop, options_of, write_shop


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory of encoders with the one that is trained on the catalogue of `write_shop`."""
    folder = tmp_path_factory.mktemp("trained")
    options = options_of(write_shop(folder / "shop"), folder / "index", folder / "encoders")
    asyncio.run(make_version(options))
    return options.artifacts


@pytest.fixture
def shop(trained: Path, tmp_path: Path) -> Shop:
    shutil.copytree(trained, tmp_path / "encoders", copy_function=os.link)
    directory = write_shop(tmp_path / "shop")
    options = options_of(directory, tmp_path / "index", tmp_path / "encoders")
    return Shop(directory, options, Directory(tmp_path / "index"))
