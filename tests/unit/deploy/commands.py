"""Parse the arguments and environment of a `lookalike` command as the command itself does, without running it."""

from __future__ import annotations

import argparse
import contextlib
import io
from collections.abc import Mapping, Sequence
from typing import Any
from unittest.mock import patch

from lookalike.__main__ import COMMANDS
from lookalike.errors import BadSettings


class Parsed(Exception):
    """Raised to stop a command once it has parsed its arguments."""


def command_name(arguments: Sequence[str]) -> str | None:
    """The name of the command, which is the first one or two arguments; None if there is no such command."""
    return next((name for n in (2, 1) if (name := " ".join(arguments[:n])) in COMMANDS), None)


def parse_command(arguments: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    """The options that the command parses, by name; for a serving command its settings, by environment variable.

    An error message, if the command refuses them.
    """
    name = command_name(arguments)
    if name is None:
        return f"no such command: {' '.join(arguments[:2])}"
    rest = list(arguments[len(name.split()) :])
    if name.startswith("serve ") and name != "serve local":
        return _parse_settings(name, rest, environ)
    return _parse_options(name, rest, environ)


def _parse_settings(name: str, arguments: list[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    output, errors = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
            COMMANDS[name].load()([*arguments, "--check-config"], environ)
    except BadSettings as error:
        return str(error)
    except SystemExit as stop:
        if stop.code == 0:
            return dict(line.split("=", 1) for line in output.getvalue().splitlines())
    return errors.getvalue() or f"{name} does not end after --check-config"


def _parse_options(name: str, arguments: list[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    original, errors = argparse.ArgumentParser.parse_args, io.StringIO()
    parsed: list[argparse.Namespace] = []

    def parse_args(self: argparse.ArgumentParser, args: Any = None, namespace: Any = None) -> Any:
        parsed.append(original(self, args, namespace))
        raise Parsed

    try:
        with patch.object(argparse.ArgumentParser, "parse_args", parse_args), contextlib.redirect_stderr(errors):
            COMMANDS[name].load()(arguments, environ)
    except Parsed:
        return vars(parsed[0])
    except SystemExit:
        return errors.getvalue()
    return f"{name} parses no arguments"
