"""The repository itself: names resolve inside it, every command exists, heavy libraries stay where they belong."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from lookalike.__main__ import COMMANDS
from tests.conftest import REPOSITORY


@pytest.mark.parametrize("name", ["lookalike", "encoders", "index", "server", "node", "pipeline", "loadtest"])
def test_each_package_is_the_one_in_this_repository(name: str) -> None:
    (path,) = importlib.import_module(name).__path__
    assert path == str(REPOSITORY / name)


@pytest.mark.parametrize("words", [*COMMANDS, *dict.fromkeys(name.split()[0] for name in COMMANDS if " " in name)])
def test_every_command_helps(words: str) -> None:
    shown = subprocess.run(
        [sys.executable, "-m", "lookalike", *words.split(), "--help"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert shown.returncode == 0, shown.stderr
    assert shown.stdout.startswith("usage:")


@pytest.mark.parametrize(
    ("module", "heavy"),
    [
        ("server.app", "faiss"),
        ("server.app", "tensorflow.python"),
        ("index.serving.shard", "tensorflow.python"),
        ("index.serving.shard", "redis"),
        ("node.app", "tensorflow.python"),
        ("lookalike.client", "pyarrow"),
    ],
)
def test_a_process_does_not_load_what_it_does_not_need(module: str, heavy: str) -> None:
    script = f"import sys, {module}; sys.exit({heavy!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, check=True, timeout=120)


def test_tests_that_press_ctrl_c_pass_where_the_shell_ignores_it() -> None:
    """As in `nohup make test &` of a script: such a job ignores SIGINT and SIGHUP, and so would its children."""
    words = [
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests/unit/lookalike/local/test_supervisor.py",
        "-k",
        "signal",
    ]
    ignoring = ["sh", "-c", 'trap "" INT HUP; exec "$@"', "sh", sys.executable, *words]
    ended = subprocess.run(ignoring, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=120)
    assert ended.returncode == 0, ended.stdout
    assert "3 passed" in ended.stdout
