"""Where the real products are, and what else every test may ask for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real products; the test is skipped where there is none. Never copied into the repository."""
    folder = Path(os.environ.get("LOOKALIKE_TEST_DATA", REPOSITORY.parent / "shared" / "data"))  # noqa: TID251
    if not folder.is_dir():
        pytest.skip(f"no real products at {folder} (LOOKALIKE_TEST_DATA)")
    return folder
