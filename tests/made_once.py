"""What takes long to make and tests of several files only read: made once in a run. Starts processes, writes files."""

from __future__ import annotations

import fcntl
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SMALL = ("--alpha", "0.25", "--input-px", "64")  # Of an image model that is quick to load and to run.
SMALL_DIM = 256


def make_once(directory: Path, make: Callable[[Path], None]) -> Path:
    """The directory, which the first of all processes that need it makes; the others wait for it."""
    with directory.with_name(f"{directory.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not directory.exists():
            part = directory.with_name(f"{directory.name}.part")
            make(part)
            part.rename(directory)
    return directory


def export_model(models: Path, *flags: str) -> None:
    """Export MobileNet with untrained weights, as TF-Serving and the model server load it."""
    command = [sys.executable, "-m", "lookalike", "encoders", "export", str(models), "--weights", "untrained", *flags]
    subprocess.run(command, check=True, timeout=300)
