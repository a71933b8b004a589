"""The settings of the model server."""

from __future__ import annotations

import pytest

from encoders.serving.settings import ModelServerSettings
from lookalike.errors import BadSettings
from lookalike.runtime.settings import load


@pytest.mark.parametrize(
    "argv",
    [
        ["--model-version-policy", "none"],
        ["--version-labels", "stable=3,stable=4"],
        ["--allowed-batch-sizes", "1,x"],
        ["--max-batch-size", "8"],
    ],
)
def test_invalid_settings_are_refused_before_startup(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadSettings):
        load(ModelServerSettings, {}, [*argv, "--check-config"], description="")
    assert capsys.readouterr().out == ""
