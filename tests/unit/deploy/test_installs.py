"""Whatever is downloaded and installed is verified by a hash: the Makefile, the Dockerfile and all scripts say so."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

SCRIPTS = [
    REPOSITORY / "Makefile",
    REPOSITORY / "deploy" / "images" / "Dockerfile",
    REPOSITORY / ".ci" / "run",
    *sorted(REPOSITORY.glob("tools/*.sh")),
    *sorted(REPOSITORY.glob("requirements/*.sh")),
]
LOCKS = sorted((REPOSITORY / "requirements").glob("*.lock"))
INSTALL = re.compile(
    r"(?:\bpip3?\"?|-m pip|\buv\"?) (?:install|wheel|download|sync|run|tool|add)\b|\buvx\b|\beasy_install\b|\bpipx\b"
)
# What downloads no package: the project itself, by what is installed already; wheels that were verified before.
DOWNLOADS_NOTHING = (
    {"--no-deps", "--no-build-isolation", "-e"},
    {"--offline", "--no-index", "--no-deps"},
)


def commands(text: str) -> Iterator[str]:
    """The commands of a script, each on one line, without comments."""
    joined = re.sub(r"\\\n\s*", " ", text)
    for line in joined.splitlines():
        yield from re.split(r"&&|\|\||;", re.sub(r"(^|\s)#.*", "", line))


def unverified(text: str) -> list[str]:
    """The commands that install what no hash verifies, or build it with packages that none does."""
    found = []
    for command in commands(text):
        words = set(command.split())
        if not INSTALL.search(command) or any(words >= harmless for harmless in DOWNLOADS_NOTHING):
            continue
        built_by_hashed = "--no-build-isolation" in words or {"--only-binary", ":all:"} <= words
        if "--require-hashes" not in words or not built_by_hashed:
            found.append(command.strip())
    return found


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.relative_to(REPOSITORY).as_posix())
def test_everything_that_is_installed_is_verified_by_its_hash(path: Path) -> None:
    assert not unverified(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "command",
    [
        "pip install uv==0.13.9",
        "python -m pip install -r requirements/dev.lock",
        'RUN true && "$build/pip" install --require-hashes -r a.lock',
        '"$venv/bin/uv" pip install --require-hashes \\\n    -r a.lock',
        "uv pip install --no-deps -e .",
        "uv pip install --no-deps lookalike",
        "uvx ruff check",
    ],
)
def test_an_install_without_hashes_or_with_a_build_that_downloads_is_found(command: str) -> None:
    assert unverified(command)


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_package_of_a_lock_file_has_a_hash(lock: Path) -> None:
    entries = re.split(r"\n(?=\S)", re.sub(r"(?m)^#.*\n", "", lock.read_text(encoding="utf-8")).strip())
    assert entries
    for entry in entries:
        assert re.match(r"[a-z0-9.-]+(\[[a-z,]+\])?==\S+", entry), entry
        assert "--hash=sha256:" in entry, entry


def test_no_lock_file_names_where_packages_come_from() -> None:
    for lock in LOCKS:
        assert "://" not in lock.read_text(encoding="utf-8"), lock.name


def test_buf_is_verified_by_its_hashes_and_runs_no_script_of_its_packages() -> None:
    script = (REPOSITORY / "tools" / "buf.sh").read_text(encoding="utf-8")
    assert re.findall(r"\bnp[mx] .*", re.sub(r"(?m)^#.*|.*(command -v|skipped).*", "", script)) == [
        'npm ci --prefix "$cache" --ignore-scripts --no-audit --no-fund --silent'
    ]
    lock = json.loads((REPOSITORY / "tools" / "buf" / "package-lock.json").read_text(encoding="utf-8"))
    assert len(lock["packages"]) > 1
    for name, package in lock["packages"].items():
        assert not name or package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
