"""Secrets in settings and URLs: no error, log or list of settings has one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar
from urllib.parse import quote

import pytest

from lookalike.errors import BadSettings
from lookalike.runtime.redis_client import open_redis
from lookalike.runtime.settings import ProcessSettings, effective_settings, load, setting

PASSWORD = "p@ss:w/rd%#"  # noqa: S105  # of nothing


@dataclass(frozen=True, kw_only=True)
class Settings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_TEST_"

    url: str = setting("", "with a password", secret=True)
    pin: int = setting(0, "a secret number", secret=True, at_most=9999)


def test_effective_settings_mask_secrets() -> None:
    settings = load(
        Settings, {"LOOKALIKE_TEST_URL": f"redis://:{PASSWORD}@h:1", "LOOKALIKE_TEST_PIN": "1234"}, [], description=""
    )
    shown = "\n".join(effective_settings(settings))
    assert "LOOKALIKE_TEST_URL=********" in shown
    assert "1234" not in shown


@pytest.mark.parametrize("value", ["12345", "hunter2"])
@pytest.mark.parametrize("by_flag", [False, True])
def test_a_bad_value_of_a_secret_setting_is_named_without_the_value(value: str, by_flag: bool) -> None:
    environ, argv = ({}, ["--pin", value]) if by_flag else ({"LOOKALIKE_TEST_PIN": value}, [])
    with pytest.raises(BadSettings, match=r"(pin|PIN)=\*{8}: not ") as refused:
        load(Settings, environ, argv, description="")
    assert value not in str(refused.value)


def test_a_misspelt_setting_is_named_without_its_value() -> None:
    with pytest.raises(
        BadSettings, match="LOOKALIKE_TEST_URLS: no such setting; did you mean LOOKALIKE_TEST_URL"
    ) as refused:
        load(Settings, {"LOOKALIKE_TEST_URLS": f"redis://:{PASSWORD}@h:1"}, [], description="")
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize(
    "url",
    [
        f"redis://:{PASSWORD}@cache:6379/0",
        "redis://:p@ss@cache:6379",
        "redis://:a/b@cache:6379/0",
        "redis://:a:b/c@cache:6379/0",
        "redis://user:a#b@cache:6379",
        "http://user:hunter2@cache:6379",
        "hunter2",
    ],
)
def test_a_password_that_is_not_escaped_is_refused_without_a_word_of_it(url: str) -> None:
    with pytest.raises(BadSettings, match=r"redis url: expected redis://.*@ as %40") as refused:
        open_redis(url, "redis url")
    assert not any(part in str(refused.value) for part in (PASSWORD, "p@ss", "a/b", "b/c", "a#b", "hunter2", "6379"))
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("place", ["cache:6379", "cache:6379/3", "cache", "[::1]:6379/0", "cache:6379/0?protocol=3"])
def test_any_password_may_be_escaped(place: str) -> None:
    client = open_redis(f"redis://shop:{quote(PASSWORD, safe='')}@{place}", "redis url")
    assert client.connection_pool.connection_kwargs["password"] == PASSWORD
