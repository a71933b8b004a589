"""Settings of a process: frozen dataclasses, read once from environment variables and flags, and validated.

A setting `shard_timeout_s` of a class with `PREFIX = "LOOKALIKE_GATEWAY_"` is the variable
`LOOKALIKE_GATEWAY_SHARD_TIMEOUT_S` and the flag `--shard-timeout-s`; the flag wins. A variable with the prefix that
names no setting is an error: a misspelt setting must not be ignored silently. No I/O: the environment is an argument.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import ipaddress
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from lookalike.errors import BadSettings

_MASK = "********"


def setting(
    default: Any,
    help: str,
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    choices: Sequence[str] = (),
    secret: bool = False,
) -> Any:
    """A field of a settings class; `help` says what it does and what happens at the limit. Bounds are inclusive."""
    metadata = {"help": help, "at_least": at_least, "at_most": at_most, "choices": tuple(choices), "secret": secret}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The settings that every serving process has."""

    PREFIX: ClassVar[str]

    host: str = setting("127.0.0.1", "address to listen on; 0.0.0.0 in a container")
    port: int = setting(0, "gRPC port; 0: any free port, logged at the start", at_least=0, at_most=65535)
    metrics_port: int = setting(0, "port of the Prometheus page /metrics; 0: none", at_least=0, at_most=65535)
    grpc_server: str = setting(
        "auto",
        "who speaks HTTP/2: grpcio, or pygrpc-native in less CPU; auto: native where it is installed",
        choices=("auto", "grpcio", "native"),
    )
    health_port: int = setting(
        0,
        "port of the gRPC health service alone, always plain, for probes that know no TLS; 0: none",
        at_least=0,
        at_most=65535,
    )
    tls_cert: str = setting("", "PEM file of this process's certificate, and of those that signed it; empty: no TLS")
    tls_key: str = setting("", "PEM file of its key")
    tls_client_ca: str = setting("", "PEM file of the CA whose certificates callers must show; empty: they show none")
    tls_allowed_names: tuple[str, ...] = setting(
        (), "names, of which a caller's certificate must have one; empty: all that the CA has signed may call"
    )
    tls_ca: str = setting(
        "",
        "PEM file of the CA of the servers that this process calls, by TLS, with its own certificate; empty: without",
    )
    tls_server_name: str = setting("", "name that their certificates must have; empty: that of their address")
    insecure: bool = setting(False, "listen beyond this machine without TLS, or to callers that prove nothing")
    drain_s: float = setting(5.0, "after SIGTERM, time for calls in progress to finish", at_least=0, at_most=3600)
    log_level: str = setting("info", "lowest level that is logged", choices=("debug", "info", "warning", "error"))
    log_format: str = setting("text", "a line for people, or a JSON object, per entry", choices=("text", "json"))
    otlp_endpoint: str = setting(
        "", "http://host:port (https: with TLS) of an OpenTelemetry collector, by OTLP/gRPC; empty: no traces are sent"
    )
    trace_share: float = setting(
        0.01,
        "share of the calls without a traceparent of which traces are sent; those with one say so themselves",
        at_least=0,
        at_most=1,
    )

    @classmethod
    def role(cls) -> str:
        """What the process is: gateway, text-encoder."""
        return cls.PREFIX.removeprefix("LOOKALIKE_").removesuffix("_").lower().replace("_", "-")

    def checks_callers(self) -> bool:
        """Whether calls, and requests for the metrics page, are answered only if the caller proves who it is."""
        return bool(self.tls_client_ca)

    def exposure(self) -> str:
        """What is open to whoever reaches this process from another machine; empty: nothing."""
        if is_loopback(self.host):
            return ""
        if not self.tls_cert:
            return "calls are not encrypted: set tls_cert and tls_key"
        if not self.checks_callers():
            return "anybody may call: set tls_client_ca, or keys (of gateways and nodes)"
        return ""

    def check_security(self) -> None:
        """Raises BadSettings for settings of TLS that do not fit together, and for what is open and should not be."""
        if bool(self.tls_cert) != bool(self.tls_key):
            raise BadSettings(f"tls_cert={self.tls_cert}, tls_key={self.tls_key}: set both, or none")
        if self.tls_client_ca and not self.tls_cert:
            raise BadSettings(f"tls_client_ca={self.tls_client_ca}: certificates are checked by TLS: set tls_cert, too")
        if self.tls_allowed_names and not self.tls_client_ca:
            raise BadSettings("tls_allowed_names: names are those of certificates: set tls_client_ca, too")
        if self.tls_server_name and not self.tls_ca:
            raise BadSettings(f"tls_server_name={self.tls_server_name}: servers are called by TLS: set tls_ca, too")
        if self.tls_cert and self.grpc_server == "native":
            raise BadSettings("grpc_server=native: the native server has no TLS; with tls_cert leave it at auto")
        if (exposure := self.exposure()) and not self.insecure:
            raise BadSettings(f"host={self.host}: {exposure}; or --insecure where nobody else reaches it")


Settings = TypeVar("Settings", bound=ProcessSettings)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server that listens there. Of names, localhost does."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def load(cls: type[Settings], environ: Mapping[str, str], argv: Sequence[str], *, description: str) -> Settings:
    """Load settings: flags over environment variables over defaults. `--check-config` prints them and exits.

    Raises BadSettings, naming the key, the value and what is allowed.
    """
    fields = dataclasses.fields(cls)
    known = {variable(cls, field.name): field for field in fields}
    values: dict[str, Any] = {}
    for key, text in environ.items():
        if key.startswith(cls.PREFIX):
            if key not in known:
                similar = difflib.get_close_matches(key, known, n=1)
                # Without its value: it may be a misspelt secret.
                raise BadSettings(f"{key}: no such setting{f'; did you mean {similar[0]}?' if similar else ''}")
            values[known[key].name] = _parse_value(cls, known[key], text, key)

    parser = argparse.ArgumentParser(
        prog=f"lookalike serve {cls.role()}",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--check-config", action="store_true", help="print the effective settings and exit")
    for field in fields:
        flag = "--" + field.name.replace("_", "-")
        text = f"{field.metadata['help']} [{variable(cls, field.name)}, default: {_format_value(field.default)!r}]"
        alone: dict[str, Any] = (
            {"nargs": "?", "const": "true"} if _type_of(cls, field) is bool else {}
        )  # A switch, or with its value.
        parser.add_argument(
            flag, metavar=_type_name(cls, field), dest=field.name, help=text.replace("%", "%%"), **alone
        )
    flags = vars(parser.parse_args(argv))
    check_only = flags.pop("check_config")
    for field in fields:
        if flags[field.name] is not None:
            flag = "--" + field.name.replace("_", "-")
            values[field.name] = _parse_value(cls, field, flags[field.name], flag)

    settings = cls(**values)
    settings.check_security()
    if check_only:
        print("\n".join(effective_settings(settings)))
        raise SystemExit(0)
    return settings


def variable(cls: type[ProcessSettings], name: str) -> str:
    """The environment variable of a setting."""
    return cls.PREFIX + name.upper()


def variables(cls: type[ProcessSettings]) -> frozenset[str]:
    """The environment variables that a settings class reads."""
    return frozenset(variable(cls, field.name) for field in dataclasses.fields(cls))


def effective_settings(settings: ProcessSettings) -> list[str]:
    """The settings as `VARIABLE=value` lines; secrets are masked."""
    lines = []
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        shown = _MASK if field.metadata["secret"] and value else _format_value(value)
        lines.append(f"{variable(type(settings), field.name)}={shown}")
    return lines


def _format_value(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _type_of(cls: type[ProcessSettings], field: dataclasses.Field[Any]) -> Any:
    """The type of a field; T for `T | None`."""
    annotation = typing.get_type_hints(cls)[field.name]
    if isinstance(annotation, types.UnionType):
        (annotation,) = (part for part in typing.get_args(annotation) if part is not types.NoneType)
    return annotation


def _type_name(cls: type[ProcessSettings], field: dataclasses.Field[Any]) -> str:
    kind = _type_of(cls, field)
    if choices := field.metadata["choices"]:
        return "|".join(choices)
    return "A,B,…" if typing.get_origin(kind) is tuple else str(kind.__name__).upper()


def _parse_value(cls: type[ProcessSettings], field: dataclasses.Field[Any], text: str, key: str) -> Any:
    kind = _type_of(cls, field)
    shown = _MASK if field.metadata["secret"] and text else text
    try:
        value = _PARSERS[typing.get_origin(kind) or kind](text)
    except ValueError:
        raise BadSettings(f"{key}={shown}: not {_ALLOWED[typing.get_origin(kind) or kind]}") from None
    low, high, choices = (field.metadata[name] for name in ("at_least", "at_most", "choices"))
    if choices and value not in choices:
        raise BadSettings(f"{key}={shown}: not one of {', '.join(choices)}")
    # Written so that NaN fails too.
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        raise BadSettings(
            f"{key}={shown}: not in {low if low is not None else '-∞'}..{high if high is not None else '∞'}"
        )
    return value


def _boolean(text: str) -> bool:
    if text.lower() not in ("true", "false", "1", "0"):
        raise ValueError(text)
    return text.lower() in ("true", "1")


def _names(text: str) -> tuple[str, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not parts[-1]:
        parts.pop()  # As templates write it.
    if not all(parts):
        raise ValueError(text)
    return tuple(parts)


_PARSERS: dict[Any, Any] = {int: int, float: float, bool: _boolean, str: str, Path: Path, tuple: _names}
_ALLOWED: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    tuple: "a list: one of its entries is empty",
}
