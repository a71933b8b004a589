"""Parses the Dockerfile, and lock files. An instruction that the parser does not know is an error. Reads files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

_KNOWN = {"FROM", "ENV", "RUN", "COPY", "WORKDIR", "USER", "ENTRYPOINT", "CMD"}


@dataclass
class Stage:
    """One stage of the Dockerfile."""

    name: str
    base: str
    sources: list[str] = field(default_factory=list)  # Copied from the repository, if need be through `sources`.
    stages: list[str] = field(default_factory=list)  # Copied from other stages.
    runs: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    user: str = ""
    entrypoint: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def parse(text: str) -> dict[str, Stage]:
    """The stages by name. A stage inherits from its base, if that is a stage, user, entry point and environment."""
    stages: dict[str, Stage] = {}
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    for line in filter(str.strip, lines):
        instruction, _, rest = line.partition(" ")
        if instruction not in _KNOWN:
            raise ValueError(f"unknown instruction: {line}")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stage = stages[name] = Stage(name=name, base=base)
            if base in stages:
                stage.user, stage.entrypoint = stages[base].user, stages[base].entrypoint
                stage.environment = dict(stages[base].environment)
        else:
            _apply(stage, instruction, rest)
    return stages


def _apply(stage: Stage, instruction: str, rest: str) -> None:
    if instruction == "COPY":
        *sources, _ = rest.split()
        if sources[0] == "--from=sources":
            stage.sources += [source.removeprefix("/app/") for source in sources[1:]]
        elif sources[0].startswith("--from="):
            stage.stages.append(sources[0].removeprefix("--from="))
        else:
            stage.sources += sources
    elif instruction == "ENV":
        stage.environment |= dict(pair.split("=", 1) for pair in rest.split())
    elif instruction == "RUN":
        stage.runs.append(rest)
    elif instruction == "USER":
        stage.user = rest
    elif instruction == "ENTRYPOINT":
        stage.entrypoint = json.loads(rest)
    elif instruction == "CMD":
        stage.command = json.loads(rest)


def targets(stages: dict[str, Stage]) -> dict[str, Stage]:
    """The stages that are images of roles: those with a command."""
    return {name: stage for name, stage in stages.items() if stage.command}


def locked_packages(path: Path) -> dict[str, str]:
    """The packages that a lock file installs on Linux with Python 3.11, and their versions."""
    packages = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([a-z0-9-]+)==(\S+)(?: ; (.*?))?(?: \\)?$", line):
            marker = match[3] or ""
            if not any(value in marker for value in ("'never'", "'win32'", ">= '3.12'", "< '3.11.3'")):
                packages[match[1]] = match[2]
    return packages
