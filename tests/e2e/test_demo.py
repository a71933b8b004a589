"""`lookalike demo`, the whole system: killed halfway, run to its answers, started again, killed again."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from lookalike.client import Client, example
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT

LOOKALIKE = [sys.executable, "-m", "lookalike"]
MARK = "DEMO_UNDER_TEST"  # In the environment of everything a demo starts.
PATIENCE_S = 240

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]


@dataclass(frozen=True, kw_only=True)
class Place:
    catalogue: Path
    state: Path

    def command(self, *words: str) -> list[str]:
        flags = ["--catalog", str(self.catalogue), "--state", str(self.state), "--weights", "untrained"]
        return [*LOOKALIKE, "demo", *flags, *words]

    @property
    def environ(self) -> dict[str, str]:
        return {**os.environ, MARK: str(self.state), "COLUMNS": "120"}  # noqa: TID251  # given on to a subprocess

    def processes(self) -> list[str]:
        """The command lines of everything that a demo in this place started and that still runs."""
        mark, found = f"{MARK}={self.state}".encode(), []
        for directory in Path("/proc").glob("[0-9]*"):
            try:
                marked = mark in (directory / "environ").read_bytes().split(b"\0")
                # Redis writes its title over its environment, but works in the state directory.
                if marked or Path(os.readlink(directory / "cwd")).is_relative_to(self.state):
                    found.append((directory / "cmdline").read_bytes().replace(b"\0", b" ").decode())
            except OSError:  # It ended meanwhile, or is another user's.
                continue
        return found

    def is_quiet(self) -> bool:
        """Whether nothing runs; what the kernel kills takes a moment to go."""
        return eventually(lambda: not self.processes())


def eventually(condition: Callable[[], bool], within_s: float = 20) -> bool:
    give_up_s = time.monotonic() + within_s
    while not condition():
        if time.monotonic() > give_up_s:
            return False
        time.sleep(0.05)
    return True


@contextmanager
def running(place: Place, *words: str, until: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A demo once it has printed `until`, and what it has printed; killed afterwards."""
    command = place.command(*words)
    with subprocess.Popen(command, env=place.environ, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        printed = ""
        while until not in printed and (line := process.stdout.readline()):
            printed += line
        try:
            yield process, printed
        finally:
            process.kill()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    folder = tmp_path_factory.mktemp("demo")
    words = ["catalog", "sample", str(folder / "catalogue"), "--products", "120"]
    subprocess.run([*LOOKALIKE, *words], check=True, timeout=PATIENCE_S)
    return Place(catalogue=folder / "catalogue", state=folder / "state")


@pytest.fixture(scope="module")
def answered(place: Place) -> str:
    """What a demo prints that runs to its answers, after one that was killed while it built the index."""
    with running(place, "--once", until="… index") as (_, printed):
        assert "✓ image model" in printed
        assert eventually(lambda: any("lookalike update" in command for command in place.processes()))
    assert place.is_quiet()
    told = subprocess.run(
        place.command("--once"), env=place.environ, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def test_every_kind_of_question_is_answered_and_nothing_keeps_running(place: Place, answered: str) -> None:
    assert place.is_quiet()
    assert "✓ image model unchanged" in answered  # Of the demo that was killed after that step.
    assert "with 120 products is served" in answered
    assert "The image model is UNTRAINED" in answered
    answers = re.split(r"\n\d+\. ", answered)[1:]
    kinds = [
        "(fashion: by its photo)",
        "(not fashion: by its words)",
        "Like the photo",
        "Like the words",
        "Like the words",
        "in stock, at most",
        "half as much",
        "(half by photo, half by words)",
        "70 % by photo and 30 % by words",
        "Once more",
    ]
    spaces = [f"space {name}" for name in ("image", "text", "image", "text", "text", "text", "image")]
    spaces += ["spaces image 50% + text 50%", "spaces image 70% + text 30%", "space image"]
    for printed, kind, space in zip(answers, kinds, spaces, strict=True):
        answer = " ".join(printed.split())  # Lines break where the terminal ends.
        assert kind in answer
        assert space in answer
        assert "coverage 100%" in answer
        assert "shards 2 of 2" in answer
        assert re.search(r"5 +-?\d\.\d{3} ", answer)  # Five hits with their scores.
        assert ("· cached ·" in answer) == (kind == "Once more")


@pytest.mark.usefixtures("answered")
def test_a_second_start_builds_nothing_gives_way_and_leaves_nobody_behind_when_killed(place: Place) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        wished = taken.getsockname()[1]
        with running(place, "--port", str(wished), until="Ctrl-C stops everything") as (_, printed):
            assert "✓ image model unchanged" in printed
            assert "✓ index unchanged" in printed
            (told,) = re.findall(rf"Port {wished} is taken: this demo uses (\d+) instead", printed)
            ask_everything(f"127.0.0.1:{told}", place.catalogue)
            refused = subprocess.run(place.command(), capture_output=True, text=True, timeout=60, check=False)
            assert refused.returncode == 2
            assert "another demo runs in" in refused.stderr
            assert len(place.processes()) == 7  # Redis, two encoders, two shards, the gateway, and the demo itself.
    assert place.is_quiet()


def ask_everything(address: str, catalogue: Path) -> None:
    with Client(address) as client:
        products = list(client.list())
        assert len(products) == client.count() == 120
        shoe = next(product for product in products if product.category.startswith("fashion/"))
        assert client.search(product_id=shoe.id).provenance.spaces[0].space == SPACE_IMAGE
        by_photo = client.search(image=catalogue / shoe.image, limit=1)
        assert by_photo.hits[0].product.id == shoe.id
        assert by_photo.hits[0].score > 0.999  # Query and catalogue went through the same preprocessing and model.
        by_words = client.search(text=shoe.title, category_in=["fashion"], in_stock=True)
        assert by_words.provenance.spaces[0].space == SPACE_TEXT
        assert all(hit.product.in_stock and hit.product.category.startswith("fashion") for hit in by_words.hits)
        unlike = example(text=products[-1].title, weight=-0.3)
        mixed = client.search(examples=[example(product_id=shoe.id), unlike], space="text")
        assert len(mixed.hits) == 10


@pytest.mark.usefixtures("answered")
def test_ctrl_c_stops_a_demo_that_starts(place: Place) -> None:
    with running(place, until="✓ index unchanged") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert place.is_quiet()
