"""Bills of materials: valid by CycloneDX's own schema, complete, and the same bytes for the same inputs."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from tests.conftest import REPOSITORY
from tests.unit.deploy.containers import locked_packages, parse, targets
from tools.sbom import Role, bill_of_materials, packages, roles

DOCKERFILE = (REPOSITORY / "deploy" / "images" / "Dockerfile").read_text(encoding="utf-8")
VERSION = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
ROLES = {role.name: role for role in roles(DOCKERFILE)}


@cache
def document(role: str) -> str:
    return bill_of_materials(ROLES[role], (REPOSITORY / ROLES[role].lock).read_text(encoding="utf-8"), VERSION)


def components(role: str) -> dict[str, dict[str, Any]]:
    return {component["name"]: component for component in json.loads(document(role))["components"]}


def test_every_image_has_one() -> None:
    assert ROLES.keys() == targets(parse(DOCKERFILE)).keys()


@pytest.mark.parametrize("role", sorted(ROLES))
def test_it_is_valid_by_the_schema(role: str) -> None:
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(document(role)) is None


def test_a_document_of_another_shape_is_not_valid() -> None:
    broken = document("gateway").replace('"type": "library"', '"type": "book"')
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(broken) is not None


@pytest.mark.parametrize("role", sorted(ROLES))
def test_it_lists_the_base_image_and_exactly_the_packages_that_are_installed(role: str) -> None:
    listed = components(role)
    assert listed.pop("python")["purl"] == "pkg:docker/python@3.11-slim"
    installed = locked_packages(REPOSITORY / ROLES[role].lock)
    assert {name: component["version"] for name, component in listed.items()} == installed
    for name, component in listed.items():
        assert component["purl"] == f"pkg:pypi/{name}@{component['version']}"
        assert component["hashes"]


def test_licences_and_dependencies_are_those_of_the_metadata() -> None:
    listed = components("gateway")
    assert listed["grpcio-reflection"]["licenses"] == [{"license": {"acknowledgement": "declared", "id": "Apache-2.0"}}]
    assert all(component.get("licenses") for name, component in listed.items() if name != "python")
    needs = {entry["ref"]: entry.get("dependsOn", []) for entry in json.loads(document("gateway"))["dependencies"]}
    assert listed["grpcio"]["purl"] in needs[listed["grpcio-reflection"]["purl"]]
    assert listed["redis"]["purl"] in needs["lookalike/gateway"]
    assert listed["markdown-it-py"]["purl"] not in needs["lookalike/gateway"]


def test_a_pinned_base_image_has_its_digest() -> None:
    digest = "ab" * 32
    text = DOCKERFILE.replace("python:3.11-slim AS base", f"python:3.11-slim@sha256:{digest} AS base")
    (role,) = [role for role in roles(text) if role.name == "gateway"]
    base = json.loads(bill_of_materials(role, f"a==1 --hash=sha256:{digest}", VERSION))["components"][0]
    assert base["hashes"] == [{"alg": "SHA-256", "content": digest}]


def test_packages_of_other_platforms_and_pythons_are_left_out() -> None:
    role = Role(name="a", lock="", base_name="python", base_tag="3.11-slim", base_digest=None)
    lock = "".join(
        f"{name}==1{marker} \\\n    --hash=sha256:{'0' * 64}\n"
        for name, marker in [
            ("here", ""),
            ("windows", " ; sys_platform == 'win32'"),
            ("newer", " ; python_full_version >= '3.12'"),
            ("older", " ; python_full_version < '3.11.3'"),
        ]
    )
    assert [package.name for package in packages(lock, role.environment())] == ["here"]


def test_another_process_writes_the_same_bytes(tmp_path: Path) -> None:
    command = [sys.executable, str(REPOSITORY / "tools" / "sbom.py"), str(tmp_path)]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert {path.name for path in tmp_path.iterdir()} == {f"{role}.cdx.json" for role in ROLES}
    assert (tmp_path / "gateway.cdx.json").read_text(encoding="utf-8") == document("gateway")
