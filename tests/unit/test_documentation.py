"""What the documents name is there: paths, tests, symbols, links, terms."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY

ROOMS = ("lookalike", "encoders", "index", "server", "node", "pipeline", "loadtest", "benchmarks", "tests")
DOCUMENTS = sorted(
    path.relative_to(REPOSITORY).as_posix()
    for path in (*REPOSITORY.glob("*.md"), *REPOSITORY.glob("docs/**/*.md"), REPOSITORY / "benchmarks" / "README.md")
)
MAP = (REPOSITORY / "ARCHITECTURE.md").read_text(encoding="utf-8")
SECURITY = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
GLOSSARY = (REPOSITORY / "docs" / "glossary.md").read_text(encoding="utf-8")


def in_backticks(text: str) -> list[str]:
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    return list(dict.fromkeys(re.findall(r"`([^`\n]+)`", prose)))


@cache
def sources() -> dict[str, str]:
    """Every Python and proto file of the project by its path, generated ones left out."""
    found = [path for room in ROOMS for path in (REPOSITORY / room).rglob("*.py") if "_pb2" not in path.name]
    found += (REPOSITORY / "protos").rglob("*.proto")
    return {path.relative_to(REPOSITORY).as_posix(): path.read_text(encoding="utf-8") for path in found}


def defined(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id


@cache
def symbols(path: str) -> frozenset[str]:
    text = sources()[path]
    if path.endswith(".proto"):
        return frozenset(re.findall(r"(?:message|service|rpc|enum)\s+(\w+)|(\w+)\s*=\s*\d+;", text)) | frozenset(
            name for pair in re.findall(r"(?:message|service|rpc|enum)\s+(\w+)|(\w+)\s*=\s*\d+;", text) for name in pair
        )
    return frozenset(defined(ast.parse(text)))


def paths_in(text: str) -> list[str]:
    form = r"[\w./-]+/[\w./-]*(::\w+)?|[\w-]+\.(py|toml|md|sh|proto)"
    return [name for name in in_backticks(text) if re.fullmatch(form, name)]


PATHS = paths_in(MAP)
NAMES = [name for name in in_backticks(MAP) if re.fullmatch(r"(?:[A-Z][a-z0-9]+){2,}|\w+\(\)", name)]


def test_the_map_is_short_enough_to_be_read() -> None:
    assert len(MAP.splitlines()) <= 200
    assert len(PATHS) > 50
    assert NAMES


@pytest.mark.parametrize("name", PATHS + [name for name in paths_in(SECURITY) if name not in (*PATHS, "dist/sbom")])
def test_every_path_and_test_that_the_map_or_the_threat_model_names_is_there(name: str) -> None:
    path, _, symbol = name.partition("::")
    assert (REPOSITORY / path).exists(), path
    if symbol:
        assert symbol in symbols(path), f"{path} has no {symbol}"


def test_every_threat_has_a_guard_and_a_test() -> None:
    section = SECURITY.partition("\n## Threats\n")[2].partition("\n## ")[0]
    rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    threats = [row for row in rows if row[0].strip() not in ("threat", "---")]
    assert len(threats) > 30
    for threat, guard, test in threats:
        assert guard.strip(), threat
        assert re.search(r"`tests/|<!-- test: pending", test), threat


@pytest.mark.parametrize("name", NAMES)
def test_every_symbol_that_the_map_names_is_defined(name: str) -> None:
    assert any(name.removesuffix("()") in symbols(path) for path in sources()), name


def test_every_term_of_the_glossary_is_used_in_the_code() -> None:
    entries = re.findall(r"^\*\*(.+?)\*\*", GLOSSARY, flags=re.MULTILINE)
    assert 20 <= len(entries) <= 40
    assert entries == sorted(entries, key=str.lower)
    code = "\n".join(text for path, text in sources().items() if not path.startswith("tests/")).lower()
    squeezed = re.sub(r"[^a-z0-9@]", "", code)
    for entry in entries:
        assert any(re.sub(r"[^a-z0-9@]", "", term.lower()) in squeezed for term in entry.split(", ")), entry


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_link_between_documents_leads_somewhere(document: str) -> None:
    folder = (REPOSITORY / document).parent
    text = re.sub(r"```.*?```", "", (REPOSITORY / document).read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        if "://" not in target:
            assert (folder / target).exists(), target


def test_every_document_is_named_by_another() -> None:
    texts = {name: (REPOSITORY / name).read_text(encoding="utf-8") for name in DOCUMENTS}
    for name in DOCUMENTS:
        if name.startswith("docs/") and not name.startswith("docs/adr/"):
            stem = Path(name).name
            assert any(stem in text for other, text in texts.items() if other != name), name
