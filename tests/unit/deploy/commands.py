"""What a command of ours makes of its words and its environment, without doing what they say."""

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
    """The words were understood; nothing was done."""


def command_of(words: Sequence[str]) -> str | None:
    """The command that begins the words, as the command line finds it."""
    return next((name for n in (2, 1) if (name := " ".join(words[:n])) in COMMANDS), None)


def understood(words: Sequence[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    """What the command's parser read: its arguments, or for a serving command its settings by variable.

    Else a text: what was wrong.
    """
    name = command_of(words)
    if name is None:
        return f"no such command: {' '.join(words[:2])}"
    rest = list(words[len(name.split()) :])
    if name.startswith("serve ") and name != "serve local":
        return _settings(name, rest, environ)
    return _arguments(name, rest, environ)


def _settings(name: str, words: list[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    printed, complaint = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(complaint):
            COMMANDS[name].load()([*words, "--check-config"], environ)
    except BadSettings as error:
        return str(error)
    except SystemExit as ended:
        if ended.code == 0:
            return dict(line.split("=", 1) for line in printed.getvalue().splitlines())
    return complaint.getvalue() or f"{name} does not end after --check-config"


def _arguments(name: str, words: list[str], environ: Mapping[str, str]) -> dict[str, Any] | str:
    original, complaint = argparse.ArgumentParser.parse_args, io.StringIO()
    read: list[argparse.Namespace] = []

    def parse_args(self: argparse.ArgumentParser, given: Any = None, namespace: Any = None) -> Any:
        read.append(original(self, given, namespace))
        raise Parsed

    try:
        with patch.object(argparse.ArgumentParser, "parse_args", parse_args), contextlib.redirect_stderr(complaint):
            COMMANDS[name].load()(words, environ)
    except Parsed:
        return vars(read[0])
    except SystemExit:
        return complaint.getvalue()
    return f"{name} parses no arguments"
