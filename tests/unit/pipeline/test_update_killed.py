"""Kills updates by SIGKILL before and after each write that says how far they are; the next one goes on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lookalike.releases.location import Directory
from lookalike.releases.records import PUBLISHED, read_record
from pipeline.update.options import WORK
from pipeline.update.progress import STEPS, Step
from tests.unit.pipeline.updates import Gate, Shop, options_of, write_shop

# The steps whose end is written; that of `plan` is written with that of `encode`.
WRITTEN = [step for step in STEPS if step is not Step.PLAN]
MOMENTS = [
    *(f"{when} {step}" for step in WRITTEN for when in ("before", "after")),
    *(f"{when} {file}" for file in ("CURRENT", "record") for when in ("before", "after")),
]
UNPUBLISHED = [*MOMENTS[: MOMENTS.index("before publish")], "before CURRENT"]
# One child for each moment, forked from a process that has imported everything and run nothing.
SCRIPT = """
import asyncio, json, os, signal, sys
from pathlib import Path
from lookalike.releases import records, version
from lookalike.releases.location import Directory
from pipeline.update import run
from pipeline.update.progress import Progress
from tests.unit.pipeline.updates import Gate, options_of

root, moments = Path(sys.argv[1]), json.loads(sys.argv[2])

def killing(function, moment, name_of):
    def call(*args):
        name = name_of(*args)
        if moment == f"before {name}":
            os.kill(os.getpid(), signal.SIGKILL)
        function(*args)
        if moment == f"after {name}":
            os.kill(os.getpid(), signal.SIGKILL)
    return call

for number, moment in enumerate(moments):
    child = os.fork()
    if not child:
        Progress.done = killing(Progress.done, moment, lambda self, step, *_: step)
        Progress.begin = killing(Progress.begin, moment, lambda *_: "encode")
        version.make_current = killing(version.make_current, moment, lambda *_: "CURRENT")
        run.write_record = killing(
            run.write_record, moment, lambda _, record: "record" if record.events else "record of what does not serve"
        )
        folder = root / str(number)
        options = options_of(root / "shop", folder / "index", folder / "encoders")
        release = run.ReleaseOptions(location=Directory(folder / "index"), verify=Gate())
        asyncio.run(run.run_update(options, release))
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), (moment, status)
"""


@pytest.fixture(scope="module")
def killed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A folder with an index for each moment, the version before, and the one that an update makes undisturbed."""
    root = tmp_path_factory.mktemp("killed")
    first, last = write_shop(root / "before", price=90), write_shop(root / "shop")
    shutil.copytree(trained, root / "first" / "encoders", copy_function=os.link)
    before = Shop(first, options_of(first, root / "first/index", root / "first/encoders"), _index(root / "first"))
    old = before.update().version
    for number in range(len(MOMENTS)):
        shutil.copytree(root / "first", root / str(number), copy_function=os.link)  # Files are replaced, not changed.
    undisturbed = Shop(last, options_of(last, root / "first/index", root / "first/encoders"), _index(root / "first"))
    new = undisturbed.update().version
    subprocess.run(
        [sys.executable, "-c", SCRIPT, str(root), json.dumps(MOMENTS)],
        cwd=Path(__file__).parents[3],
        check=True,
        timeout=240,
    )
    return root, old, new


def _index(folder: Path) -> Directory:
    return Directory(folder / "index")


def _progress(folder: Path) -> dict[str, Any]:
    body: dict[str, Any] = json.loads((folder / "index" / WORK / "progress.json").read_text(encoding="utf-8"))
    return body


@pytest.mark.parametrize("moment", MOMENTS)
def test_after_a_kill_at_any_step_a_whole_version_serves_and_the_next_update_comes_to_the_same_end(
    killed: tuple[Path, str, str], moment: str
) -> None:
    root, old, new = killed
    folder = root / str(MOMENTS.index(moment))
    location = _index(folder)
    serving = location.current()
    location.verify(location.read_manifest(serving))
    assert serving == (old if moment in UNPUBLISHED else new)
    done = [*_progress(folder)["steps"]] if not _progress(folder)["finished"] else []
    shop = Shop(root / "shop", options_of(root / "shop", folder / "index", folder / "encoders"), location)

    result = shop.update(verify=(gate := Gate()))

    assert (result.version, result.status) == (new, 0)
    assert location.current() == new
    assert set(result.taken_over) == {*done} - {"plan"}
    assert _progress(folder)["finished"]
    record = read_record(location, new)
    assert record is not None
    assert [(event.what, event.other) for event in record.events] == [(PUBLISHED, old)]
    assert len(gate.asked) == (0 if Step.VERIFY in done or moment == "after retain" else 1)
    if result.taken_over:
        assert any("taken over from an update that was stopped: encode" in text for text in shop.said)
