"""`lookalike demo`, the whole system: killed while it builds, run to its answers, started again, killed again."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lookalike.client import Client, example
from lookalike.v1.types_pb2 import SPACE_IMAGE, SPACE_TEXT
from tests.e2e.demos import TIMEOUT_S, DemoDirectories, eventually, running

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")]


@pytest.fixture(scope="module")
def output(demo: DemoDirectories) -> str:
    """The output of a demo that runs to its end, after another one was killed while it built the index."""
    with running(demo, "--once", until="… index") as (_, printed):
        assert "✓ image model" in printed
        assert eventually(lambda: any("lookalike update" in command for command in demo.processes()))
    assert demo.all_ended()
    result = subprocess.run(
        demo.command("--once"), env=demo.environ, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def test_every_kind_of_query_is_answered_and_no_process_keeps_running(demo: DemoDirectories, output: str) -> None:
    assert demo.all_ended()
    assert "✓ image model unchanged" in output  # Built by the demo that was killed after this step.
    assert "with 120 products is served" in output
    assert "The image model is UNTRAINED" in output
    (found_s,) = re.findall(r"Published the event of a new product, demo-new, with a photo: found (\d+\.\d+) s", output)
    assert float(found_s) < 60
    assert re.search(r"\n +1 +\d\.\d+ +demo-new", output)
    answers = re.split(r"\n\d+\. ", output.partition("Published the event")[0])[1:]
    headings = [
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
    for printed, heading, space in zip(answers, headings, spaces, strict=True):
        answer = " ".join(printed.split())  # Lines are wrapped at the width of the terminal.
        assert heading in answer
        assert space in answer
        assert "coverage 100%" in answer
        assert "shards 1 of 1" in answer
        assert re.search(r"5 +-?\d\.\d{3} ", answer)  # Five hits with their scores.
        assert ("· cached ·" in answer) == (heading == "Once more")


@pytest.mark.usefixtures("output")
def test_a_second_start_builds_nothing_avoids_a_port_in_use_and_leaves_no_process_when_killed(
    demo: DemoDirectories,
) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        preferred = listener.getsockname()[1]
        with running(demo, "--port", str(preferred), until="Ctrl-C stops everything") as (_, printed):
            assert "✓ image model unchanged" in printed
            assert "✓ index unchanged" in printed
            (port,) = re.findall(rf"Port {preferred} is already in use: this demo uses (\d+) instead", printed)
            check_queries(f"127.0.0.1:{port}", demo.catalogue)
            refused = subprocess.run(demo.command(), capture_output=True, text=True, timeout=60, check=False)
            assert refused.returncode == 2
            assert "another demo runs in" in refused.stderr
            assert len(demo.processes()) == 7  # Two Redis, two encoders, the node, a worker, and the demo itself.
    assert demo.all_ended()


def check_queries(address: str, catalogue: Path) -> None:
    with Client(address) as client:
        products = list(client.list())
        assert len(products) == client.count() == 120
        shoe = next(product for product in products if product.category.startswith("fashion/"))
        assert client.search(product_id=shoe.id).provenance.spaces[0].space == SPACE_IMAGE
        by_photo = client.search(image=catalogue / shoe.image, limit=1)
        assert by_photo.hits[0].product.id == shoe.id
        assert by_photo.hits[0].score > 0.999  # Query and catalogue go through the same preprocessing and model.
        by_words = client.search(text=shoe.title, category_in=["fashion"], in_stock=True)
        assert by_words.provenance.spaces[0].space == SPACE_TEXT
        assert all(hit.product.in_stock and hit.product.category.startswith("fashion") for hit in by_words.hits)
        unlike = example(text=products[-1].title, weight=-0.3)
        mixed = client.search(examples=[example(product_id=shoe.id), unlike], space="text")
        assert len(mixed.hits) == 10


@pytest.mark.usefixtures("output")
def test_ctrl_c_stops_a_demo_that_is_starting(demo: DemoDirectories) -> None:
    with running(demo, until="✓ index unchanged") as (process, _):
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=60) == 130
        assert demo.all_ended()
