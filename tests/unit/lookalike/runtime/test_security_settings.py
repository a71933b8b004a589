"""Which settings of TLS fit together, and what a process must not be open to."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from lookalike.cli import flags
from lookalike.errors import BadSettings
from lookalike.runtime.settings import ProcessSettings, is_loopback, load

EVERYWHERE = "0.0.0.0"  # noqa: S104  # A setting that is judged, not listened on.
TLS: dict[str, Any] = {"tls_cert": "tls.crt", "tls_key": "tls.key"}


@dataclass(frozen=True, kw_only=True)
class EchoSettings(ProcessSettings):
    PREFIX: ClassVar[str] = "LOOKALIKE_ECHO_"


@dataclass(frozen=True, kw_only=True)
class KeyedSettings(EchoSettings):
    """Of a process that knows its callers by other means than certificates."""

    def checks_callers(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (EchoSettings(tls_cert="tls.crt"), "set both, or none"),
        (EchoSettings(tls_key="tls.key"), "set both, or none"),
        (EchoSettings(tls_client_ca="ca.crt"), "set tls_cert, too"),
        (EchoSettings(**TLS, tls_allowed_names=("gateway",)), "set tls_client_ca, too"),
        (EchoSettings(tls_server_name="shard"), "set tls_ca, too"),
        (EchoSettings(**TLS, grpc_server="native"), "the native server has no TLS"),
        (EchoSettings(host=EVERYWHERE), "set tls_cert and tls_key; or --insecure"),
        (EchoSettings(host=EVERYWHERE, **TLS), "anybody may call: set tls_client_ca"),
        (EchoSettings(host="shard-0.shard"), "set tls_cert and tls_key"),
        (KeyedSettings(host=EVERYWHERE), "set tls_cert and tls_key"),
    ],
)
def test_settings_that_do_not_fit_or_leave_a_process_open_are_refused(settings: ProcessSettings, reason: str) -> None:
    with pytest.raises(BadSettings, match=reason):
        settings.check_security()


@pytest.mark.parametrize(
    "settings",
    [
        EchoSettings(metrics_port=9090),
        EchoSettings(host="localhost"),
        EchoSettings(host="[::1]"),
        EchoSettings(host=EVERYWHERE, insecure=True),
        EchoSettings(host=EVERYWHERE, **TLS, tls_client_ca="ca.crt", metrics_port=9090, health_port=50052),
        KeyedSettings(host=EVERYWHERE, **TLS),
    ],
)
def test_a_process_may_listen_here_or_to_callers_that_it_knows_or_where_it_is_told_insecure(
    settings: ProcessSettings,
) -> None:
    settings.check_security()


def test_what_is_refused_is_refused_when_settings_are_loaded() -> None:
    with pytest.raises(BadSettings, match="not encrypted"):
        load(EchoSettings, {"LOOKALIKE_ECHO_HOST": EVERYWHERE}, [], description="")


@pytest.mark.parametrize("words", [["--insecure"], ["--insecure", "true"]])
def test_insecure_is_a_switch_which_may_have_its_value(words: list[str]) -> None:
    assert load(EchoSettings, {}, ["--host", EVERYWHERE, *words], description="").insecure


def test_hosts_of_this_machine_are_told_from_others() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, (EVERYWHERE, "::", "", "10.0.0.7", "gateway")))


def test_a_command_takes_certificates_from_flags_and_the_environment_and_none_without_a_ca() -> None:
    parser = argparse.ArgumentParser()
    flags.add_tls_flags(parser, {"LOOKALIKE_TLS_CA": "ca.crt"})
    tls = flags.tls(parser.parse_args(["--tls-cert", "a.crt", "--tls-key", "a.key", "--tls-server-name", "gateway"]))
    assert tls is not None
    assert tls.names() == {"ca": "ca.crt", "cert": "a.crt", "key": "a.key", "server_name": "gateway"}
    with pytest.raises(BadSettings, match="--tls-key without --tls-ca"):
        flags.tls(parser.parse_args(["--tls-ca", "", "--tls-key", "a.key"]))
    with pytest.raises(BadSettings, match="given together"):
        flags.tls(parser.parse_args(["--tls-cert", "a.crt"]))
