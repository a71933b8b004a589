"""List what is in the image of each role: a bill of materials as CycloneDX 1.6 JSON. Reads and writes files.

    python tools/sbom.py DIRECTORY    # writes ROLE.cdx.json for each role

The roles, their lock files and their base image are those of the Dockerfile; the packages are those that a lock file
installs on Linux (x86-64) with the Python of the base image. Licences and dependencies are as the metadata of the
installed packages say, and are left out where a package is not installed here. The hashes of a package are those of all
files of its release, of which its platform's is installed. The packages of the base image's Linux are not listed: the
base image is. The same inputs give the same bytes: there is no time in it, and its serial number follows its content.
"""

from __future__ import annotations

import json
import re
import sys
import tomllib
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import HashAlgorithm, HashType
from cyclonedx.model.bom import Bom, BomMetaData
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.license import DisjunctiveLicense, License, LicenseAcknowledgement
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parent.parent
MAX_LICENSE_NAME = 80  # Longer, it is no name but the text of a licence.


@dataclass(frozen=True)
class Role:
    """An image, as the Dockerfile describes it."""

    name: str
    lock: str
    base_name: str
    base_tag: str
    base_digest: str | None

    def environment(self) -> dict[str, str]:
        """The values of the markers in a lock file; of a Python version the newest patch release is taken."""
        python = self.base_tag.partition("-")[0]
        return {
            "implementation_name": "cpython",
            "os_name": "posix",
            "platform_machine": "x86_64",
            "platform_python_implementation": "CPython",
            "platform_system": "Linux",
            "python_full_version": f"{python}.99",
            "python_version": python,
            "sys_platform": "linux",
            "extra": "",
        }


@dataclass(frozen=True)
class Package:
    """A package of a lock file."""

    name: str
    version: str
    hashes: Sequence[str]


def roles(dockerfile: str) -> Iterator[Role]:
    """The roles of a Dockerfile."""
    base = re.search(r"(?m)^FROM ([\w./:-]+):([\w.-]+)(?:@sha256:(\w+))? AS base$", dockerfile)
    if base is None:
        raise ValueError("the Dockerfile has no stage `base` with a tag")
    for match in re.finditer(r"(?m)^FROM build AS ([\w-]+)-packages\nCOPY (requirements/\S+)", dockerfile):
        yield Role(name=match[1], lock=match[2], base_name=base[1], base_tag=base[2], base_digest=base[3])


def packages(lock: str, environment: Mapping[str, str]) -> Iterator[Package]:
    """The packages of a lock file that are installed where markers have these values."""
    for entry in re.split(r"\n(?=[a-z0-9])", re.sub(r"(?m)^#.*\n", "", lock)):
        requirement = Requirement(entry.partition("--hash")[0].replace("\\\n", " ").strip())
        if requirement.marker is None or requirement.marker.evaluate(dict(environment)):
            (version,) = requirement.specifier
            hashes = sorted(re.findall(r"--hash=sha256:([0-9a-f]{64})", entry))
            yield Package(canonicalize_name(requirement.name), version.version, hashes)


def licenses(installed: Distribution) -> list[License]:
    """The licences that a package declares: an expression, or else names."""
    declared = LicenseAcknowledgement.DECLARED
    metadata = installed.metadata
    if expressions := metadata.get_all("License-Expression"):
        return [LicenseFactory().make_from_string(expressions[0], license_acknowledgement=declared)]
    names = [name.rpartition(" :: ")[2] for name in metadata.get_all("Classifier", []) if name.startswith("License ::")]
    names = [name for name in names if name != "OSI Approved"] or metadata.get_all("License", [])
    return [
        DisjunctiveLicense(name=name, acknowledgement=declared)
        for name in sorted(set(names))
        if name and len(name) <= MAX_LICENSE_NAME and "\n" not in name and name != "UNKNOWN"
    ]


def _installed(package: Package) -> Distribution | None:
    """The package, if it is installed here at this version."""
    try:
        found = distribution(package.name)
    except PackageNotFoundError:
        return None
    return found if found.version == package.version else None


def _required(installed: Distribution | None, environment: Mapping[str, str]) -> Iterator[str]:
    for text in (installed and installed.requires) or ():
        requirement = Requirement(text)
        marker: Marker | None = requirement.marker
        if marker is None or marker.evaluate(dict(environment)):
            yield canonicalize_name(requirement.name)


def bill_of_materials(role: Role, lock: str, version: str) -> str:
    """The CycloneDX document of a role's image."""
    environment = role.environment()
    image = Component(
        type=ComponentType.CONTAINER, name=f"lookalike/{role.name}", version=version, bom_ref=f"lookalike/{role.name}"
    )
    base_url = PackageURL("docker", name=role.base_name, version=role.base_tag)
    base = Component(
        type=ComponentType.CONTAINER,
        name=role.base_name,
        version=role.base_tag,
        purl=base_url,
        bom_ref=base_url.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=role.base_digest)] if role.base_digest else [],
    )
    bom = Bom(components=[base], metadata=BomMetaData(component=image))
    components, needs = {}, {}
    for package in packages(lock, environment):
        url, installed = PackageURL("pypi", name=package.name, version=package.version), _installed(package)
        components[package.name] = Component(
            type=ComponentType.LIBRARY,
            name=package.name,
            version=package.version,
            purl=url,
            bom_ref=url.to_string(),
            hashes=[HashType(alg=HashAlgorithm.SHA_256, content=content) for content in package.hashes],
            licenses=licenses(installed) if installed else [],
        )
        needs[package.name] = set(_required(installed, environment)) - {package.name}
    bom.components.update(components.values())
    needed = set().union(*needs.values())
    bom.register_dependency(image, [base, *(part for name, part in components.items() if name not in needed)])
    for name, names in needs.items():
        bom.register_dependency(components[name], [components[other] for other in sorted(names & components.keys())])
    return _without_time(json.loads(JsonV1Dot6(bom).output_as_string()))


def _without_time(document: dict[str, Any]) -> str:
    del document["metadata"]["timestamp"], document["serialNumber"]
    content = json.dumps(document, sort_keys=True)
    document["serialNumber"] = uuid.uuid5(uuid.NAMESPACE_OID, content).urn
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def main(argv: Sequence[str]) -> int:
    if len(argv) != 1 or argv[0].startswith("-"):
        print("usage: tools/sbom.py DIRECTORY", file=sys.stderr)
        return 2
    directory = Path(argv[0])
    directory.mkdir(parents=True, exist_ok=True)
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    for role in roles((REPOSITORY / "deploy" / "images" / "Dockerfile").read_text(encoding="utf-8")):
        document = bill_of_materials(role, (REPOSITORY / role.lock).read_text(encoding="utf-8"), version)
        path = directory / f"{role.name}.cdx.json"
        path.write_text(document, encoding="utf-8")
        print(f"{path}: {len(json.loads(document)['components'])} components")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
