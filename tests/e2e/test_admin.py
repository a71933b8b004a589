"""A real node with an audit log, killed while it makes changes, started again, and drained by the command."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from lookalike.client import Client
from lookalike.errors import LookalikeError
from lookalike.local import probes
from tests.conftest import REPOSITORY
from tests.rpc.test_swap import build_version

pytestmark = pytest.mark.slow

TIMEOUT_S = 60


def lookalike(*words: str) -> list[str]:
    return [sys.executable, "-m", "lookalike", *words]


@contextmanager
def a_node(directory: Path, address: str) -> Iterator[subprocess.Popen[bytes]]:
    host, _, port = address.rpartition(":")
    command = lookalike("serve", "node", "--location", str(directory / "index"), "--live-dir", str(directory / "live"))
    command += ["--host", host, "--port", port, "--admin", "true", "--audit-log", str(directory / "audit.log")]
    with subprocess.Popen(command, cwd=REPOSITORY, stderr=subprocess.DEVNULL) as process:
        try:
            give_up_s = time.monotonic() + TIMEOUT_S
            while not probes.is_serving(address):
                assert process.poll() is None
                assert time.monotonic() < give_up_s
                time.sleep(0.05)
            yield process
        finally:
            process.kill()


def lines_of(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "audit.log").read_text().splitlines()]


def test_a_node_that_is_killed_leaves_whole_lines_of_all_that_it_acknowledged_and_drains_when_asked(
    tmp_path: Path,
) -> None:
    version = build_version(tmp_path / "index", "a title")
    (port,) = probes.free_ports(1)
    address, acknowledged = f"127.0.0.1:{port}", list[str]()

    def remove_until_it_is_gone() -> None:
        with Client(address, timeout_s=10, retry=None) as client, suppress(LookalikeError):
            for number in range(10**6):
                client.remove(f"gone {number}", revision=1)
                acknowledged.append(f"gone {number}")

    with a_node(tmp_path, address) as node:
        caller = threading.Thread(target=remove_until_it_is_gone)
        caller.start()
        while len(acknowledged) < 50:
            time.sleep(0.01)
        node.kill()
        caller.join(TIMEOUT_S)
    ended = [line["products"][0] for line in lines_of(tmp_path) if line["stage"] == "end" and line["outcome"] == "OK"]
    assert ended[: len(acknowledged)] == acknowledged

    with a_node(tmp_path, address) as node:
        shown = subprocess.run(
            lookalike("admin", "status", "--json", "--address", address),
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            check=True,
        )
        assert json.loads(shown.stdout)["release"] == version
        subprocess.run(
            lookalike("admin", "drain", "--address", address), cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL
        )
        assert node.wait(TIMEOUT_S) == 0
    last = lines_of(tmp_path)[-1]
    assert (last["method"], last["outcome"]) == ("lookalike.v1.Admin/Drain", "OK")
