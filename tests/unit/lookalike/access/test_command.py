"""`lookalike keys`: what it prints, and what it leaves in the store."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lookalike.access import command
from lookalike.access.guard import KeyTable
from lookalike.access.open_store import open_key_store
from lookalike.errors import BadSettings, NotFound


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "keys.json")


def create(file: str, capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    command.create(["--keys", file, "--json", "--name", "shop", "--scopes", "search,read", *arguments], {})
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    return made


def table(file: str) -> KeyTable:
    stored = open_key_store(file).read()
    return KeyTable(stored.keys if stored else ())


def test_a_key_is_shown_once_and_the_store_has_only_its_hash(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = create(file, capsys)
    secret = made["key"].split("_")[2]
    assert secret not in Path(file).read_text()
    assert getattr(table(file).of_token(made["key"]), "id", None) == made["id"]
    command.list_keys(["--keys", file], {})
    command.list_keys(["--keys", file, "--json"], {})
    listed = capsys.readouterr().out
    assert made["id"] in listed
    assert secret not in listed
    assert "sha256" not in listed


def test_a_rotated_key_has_a_successor_with_its_limits_and_ends(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    old = create(file, capsys, "--calls-per-s", "50", "--no-exact", "--max-limit", "20")
    command.rotate(["--keys", file, "--json", "--overlap", "2h", old["id"]], {})
    new = json.loads(capsys.readouterr().out)
    assert new["limits"] == {"calls_per_s": 50.0, "exact": False, "max_limit": 20}
    first, second = table(file).of_token(old["key"]), table(file).of_token(new["key"])
    assert first is not None
    assert second is not None
    assert first.expires_s == second.created_s + 7200
    assert (second.expires_s, second.name, second.scopes) == (None, first.name, first.scopes)


def test_a_revoked_key_is_gone_and_one_that_is_not_there_is_named(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    made = create(file, capsys)
    command.revoke(["--keys", file, made["id"]], {})
    assert table(file).of_token(made["key"]) is None
    with pytest.raises(NotFound, match=made["id"]):
        command.revoke(["--keys", file, made["id"]], {})


def test_a_name_in_certificates_is_let_in_once_and_has_no_key(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    made = create(file, capsys, "--identity", "worker.internal")
    assert "key" not in made
    with pytest.raises(BadSettings, match=r"worker\.internal"):
        create(file, capsys, "--identity", "worker.internal")
    with pytest.raises(BadSettings, match="no key to rotate"):
        command.rotate(["--keys", file, made["id"]], {})


def test_the_store_of_the_environment_is_used_and_its_password_is_not_in_the_help(
    file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command.list_keys([], {"LOOKALIKE_KEYS": file})
    assert "there are no keys" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.create(["--help"], {"LOOKALIKE_KEYS": "redis://:secret@redis"})
    assert "secret@" not in capsys.readouterr().out


@pytest.mark.parametrize("time", ["yesterday", "2020-01-01", "10", "d"])
def test_a_time_that_is_none_or_past_is_refused(file: str, time: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        create(file, capsys, "--expires", time)
    assert "--expires" in capsys.readouterr().err
