"""The manifest of progress: which steps of an update are done for which inputs, and what they gave. Does file I/O.

One file, replaced by rename after each step: an update that is killed at any moment finds what was done before. It says
nothing about what is stored by content anyway (vectors, encoders, versions), only what a run decided and where it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from lookalike.errors import OperatorError
from lookalike.releases import version
from lookalike.strict_json import parse_json

_FORMAT = 1


class Step(StrEnum):
    """The steps of an update, in order."""

    PLAN = "plan"
    ENCODE = "encode"
    TRAIN = "train"
    BUILD = "build"
    VERIFY = "verify"
    PUBLISH = "publish"
    WATCH = "watch"
    REENCODE = "reencode"
    RETAIN = "retain"


STEPS: Sequence[Step] = tuple(Step)


def is_after(step: Step, other: Step) -> bool:
    return STEPS.index(step) > STEPS.index(other)


class Progress:
    """What the current run has done. inputs: a digest of what decides its version; empty: none is known yet."""

    def __init__(self, path: Path) -> None:
        """Reads the file; one that is damaged, or of another format, counts as none."""
        self._path = path
        body = _read(path)
        self.inputs: str = body.get("inputs", "")
        self.finished: bool = body.get("finished", True)
        self._steps: dict[str, dict[str, Any]] = dict(body.get("steps", {}))
        self._taken: list[Step] = []

    @property
    def seconds(self) -> dict[str, float]:
        """Of each step that is done."""
        return {name: step["seconds"] for name, step in self._steps.items()}

    @property
    def taken_over(self) -> Sequence[Step]:
        """The steps that an earlier process has done for this run."""
        return tuple(self._taken)

    def begin(self, inputs: str, steps: Mapping[Step, float]) -> None:
        """Go on with the run of these inputs if one was stopped; else begin another.

        steps: seconds of those that are done: to know the inputs the catalogue is read, and its photos are encoded.
        """
        if self.finished or self.inputs != inputs:
            self._steps = {}
            self._taken = []
        else:
            self._taken = [step for step in STEPS if step in self._steps and step is not Step.PLAN]
        self.inputs, self.finished = inputs, False
        self._steps |= {str(step): {"seconds": round(seconds, 3), "result": {}} for step, seconds in steps.items()}
        self._write()

    def resume(self) -> str:
        """Go on with the run that was stopped after it built a version; returns its name, or nothing."""
        built = None if self.finished else self.result(Step.BUILD)
        if built is None:
            return ""
        self._taken = [step for step in STEPS if step in self._steps]
        name: str = built["version"]
        return name

    def result(self, step: Step) -> Mapping[str, Any] | None:
        """What a step that is done gave; None: it is still to be done."""
        done = self._steps.get(step)
        return None if done is None else done["result"]

    def done(self, step: Step, seconds: float, result: Mapping[str, Any]) -> None:
        """A step is done."""
        self._steps[step] = {"seconds": round(seconds, 3), "result": result}
        self._write()

    def undo(self, step: Step) -> None:
        """A step must be done again, and with it every later one."""
        self._steps = {name: done for name, done in self._steps.items() if not is_after(Step(name), step)}
        self._steps.pop(step, None)
        self._taken = [taken for taken in self._taken if taken in self._steps]

    def finish(self) -> None:
        """The run is over: the next begins anew."""
        self.finished = True
        self._write()

    def _write(self) -> None:
        body = {"format": _FORMAT, "inputs": self.inputs, "finished": self.finished, "steps": self._steps}
        try:
            version.replace_file(self._path, json.dumps(body, indent=1) + "\n")
        except OSError as error:
            raise OperatorError(f"{self._path}: {error.strerror}") from error


def _read(path: Path) -> Mapping[str, Any]:
    try:
        body = parse_json(path.read_text(encoding="utf-8"))
        steps = body["steps"]
        known = {name: step for name, step in steps.items() if name in STEPS and {"seconds", "result"} <= step.keys()}
        if body["format"] == _FORMAT and len(known) == len(steps):
            return {"inputs": str(body["inputs"]), "finished": bool(body["finished"]), "steps": known}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass
    return {}
