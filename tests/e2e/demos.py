"""Demos under test: their directories, and the processes that they start. Starts processes, writes files."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from encoders.image.models import find_model
from lookalike.demo.preparation import Preparation

LOOKALIKE = [sys.executable, "-m", "lookalike"]
MARK = "DEMO_UNDER_TEST"  # An environment variable that every process of a demo inherits.
TIMEOUT_S = 240


def sample_catalogue(directory: Path, products: int) -> Path:
    """Draw a sample catalogue into a new directory."""
    arguments = ["catalog", "sample", str(directory), "--products", str(products)]
    subprocess.run([*LOOKALIKE, *arguments], check=True, timeout=TIMEOUT_S)
    return directory


@dataclass(frozen=True, kw_only=True)
class DemoDirectories:
    """The catalogue and state directories of a demo, and the processes that a demo in them has started."""

    catalogue: Path
    state: Path

    def command(self, *arguments: str) -> list[str]:
        flags = ["--catalog", str(self.catalogue), "--state", str(self.state), "--weights", "untrained"]
        return [*LOOKALIKE, "demo", *flags, *arguments]

    def give_models(self, models: Path) -> None:
        """Let demos find this folder of image models as what they have exported before."""
        shutil.copytree(models, self.state / "models" / "untrained")
        exported = json.dumps({"encoder": find_model(models).encoder})
        preparation = Preparation(Console(quiet=True), lambda *_, **__: exported, self.state)
        assert preparation.export_models("untrained").directory.is_dir()

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, MARK: str(self.state), "COLUMNS": "120"}  # noqa: TID251  # passed on to a subprocess

    def processes(self) -> list[str]:
        """The command lines of all processes of a demo in these directories that still run."""
        mark, commands = f"{MARK}={self.state}".encode(), []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                marked = mark in (directory / "environ").read_bytes().split(b"\0")
                # Redis overwrites its environment with its process title, but its working directory is in `state`.
                if marked or Path(os.readlink(directory / "cwd")).is_relative_to(self.state):
                    commands.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # It has ended, or belongs to another user.
                continue
        return commands

    def all_ended(self) -> bool:
        """Whether no process runs any more; those that the kernel kills take a moment to end."""
        return eventually(lambda: not self.processes())


def eventually(condition: Callable[[], bool], timeout_s: float = 20) -> bool:
    """Whether the condition becomes true in time."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def running(demo: DemoDirectories, *arguments: str, until: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start a demo and yield it with its output once that contains `until`; kill it afterwards."""
    command = demo.command(*arguments)
    with subprocess.Popen(command, env=demo.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while until not in printed and (line := process.stdout.readline()):
            printed += line
        try:
            assert until in printed, f"the demo ended early, after:\n{printed}"
            yield process, printed
        finally:
            process.kill()
