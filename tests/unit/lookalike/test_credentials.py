"""The API key of a client: given, in a file, or from a function."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import pytest

from lookalike.cli import flags
from lookalike.credentials import KeyFile, authorization, key_of
from lookalike.errors import BadSettings


def test_a_key_is_sent_as_a_bearer_token_and_no_key_as_nothing() -> None:
    assert authorization("lk_1_2")() == (("authorization", "Bearer lk_1_2"),)
    assert authorization(lambda: "lk_3_4")() == (("authorization", "Bearer lk_3_4"),)
    assert authorization(None)() is None


@pytest.mark.parametrize("key", ["two words", "lk_é", "line\nbreak"])
def test_what_no_header_can_have_is_refused_and_not_quoted(key: str) -> None:
    with pytest.raises(BadSettings) as caught:
        authorization(key)
    assert key not in str(caught.value)


def test_a_file_is_read_again_when_it_has_changed_and_goes_on_while_it_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("lk_1_2\n")
    key = KeyFile(path)
    assert key() == "lk_1_2"
    (tmp_path / "new").write_text("lk_3_4\n")
    os.replace(tmp_path / "new", path)
    assert key() == "lk_3_4"
    path.unlink()
    assert key() == "lk_3_4"


def test_a_file_that_is_not_there_or_empty_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("\n")
    for name in ("missing", "empty"):
        with pytest.raises(BadSettings, match=name):
            key_of("", tmp_path / name)


def test_a_command_takes_its_key_from_the_environment_or_a_file_and_shows_it_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "key").write_text("lk_3_4")
    environ = {"LOOKALIKE_API_KEY": "lk_1_2"}

    def given(arguments: list[str], environ: dict[str, str]) -> str:
        parser = argparse.ArgumentParser()
        flags.add_gateway_flags(parser, environ)
        key = flags.api_key(parser.parse_args(arguments))
        return key() if callable(key) else key or ""

    assert given([], {}) == ""
    assert given([], environ) == "lk_1_2"
    assert given(["--api-key-file", str(tmp_path / "key")], environ) == "lk_3_4"
    assert given([], {"LOOKALIKE_API_KEY_FILE": str(tmp_path / "key")}) == "lk_3_4"
    with pytest.raises(SystemExit):
        given(["--help"], environ)
    assert "lk_1_2" not in capsys.readouterr().out
