"""Artifacts of trained encoders: directories of files with a manifest of their SHA-256. Reads and writes files.

The fingerprint of an encoder is its kind and a digest of its manifest, and so covers every file and all metadata.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.errors import BadArtifact, OperatorError
from lookalike.strict_json import parse_json

MANIFEST = "manifest.json"
RequiredFiles = Mapping[str, Collection[str]]  # Kind of encoder -> names of the files beside the manifest.


def write_artifact(
    out: Path, *, kind: str, format_version: int, files: RequiredFiles, write_files: Callable[[Path], Mapping[str, Any]]
) -> str:
    """Create the directory `out` with a manifest, and return its fingerprint.

    files: the files that an encoder of each kind must have. write_files: writes them to the directory that it is
    passed, and returns metadata for the manifest.
    Atomic: files are written to a staging directory, which is renamed at the end; one that a killed run left behind is
    removed by the next run with the same `out`. Raises OperatorError if `out` exists or cannot be written.
    """
    if out.exists():
        raise OperatorError(f"{out} already exists")
    staging = out.with_name(out.name + ".part")
    shutil.rmtree(staging, ignore_errors=True)
    try:
        staging.mkdir(parents=True)
        metadata = write_files(staging)
        digests = {path.name: file_sha256(path) for path in sorted(staging.iterdir())}
        if missing := set(files[kind]) - digests.keys():
            raise OperatorError(f"{staging / min(missing)} is missing: is another command writing {out}?")
        manifest = {"format": format_version, "kind": kind, **metadata, "files": digests}
        fingerprint = manifest_fingerprint(manifest)
        text = json.dumps({"fingerprint": fingerprint, **manifest}, indent=1, ensure_ascii=False)
        (staging / MANIFEST).write_text(text + "\n", encoding="utf-8")
        staging.rename(out)
    except OSError as error:
        raise OperatorError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return fingerprint


def read_manifest(directory: Path, *, format_version: int, files: RequiredFiles) -> dict[str, Any]:
    """Read the manifest and verify the SHA-256 of every file.

    format_version: the version that the manifest must have.
    files: the allowed kinds of encoder, and the files each must list.
    Raises BadArtifact, naming the file at fault.
    """
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    if (
        not isinstance(manifest, dict)
        or manifest.get("format") != format_version
        or manifest.get("kind") not in [*files]  # Anything may stand there, also what no key can be.
        or not isinstance(manifest.get("files"), dict)
    ):
        raise BadArtifact(f"{path}: not a {' or '.join(files)} encoder of format {format_version}")
    if manifest.get("fingerprint") != manifest_fingerprint(manifest):
        raise BadArtifact(f"{path}: does not match its fingerprint: it was changed after it was written")
    if missing := set(files[manifest["kind"]]) - set(manifest["files"]):
        raise BadArtifact(f"{path}: does not list the file {min(missing)}")
    for name, digest in manifest["files"].items():
        if Path(name).name != name:
            raise BadArtifact(f"{path}: {name} is not a plain file name")
        if file_sha256(directory / name) != digest:
            raise BadArtifact(f"{directory / name}: its SHA-256 differs from the one in the manifest")
    return manifest


def load_arrays(directory: Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """Load NAME.npy for each name. Raises BadArtifact."""
    try:
        return {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in names}
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{directory}: {error}") from error


def manifest_fingerprint(manifest: Mapping[str, Any]) -> str:
    """`<kind>-<12 hex>`: the digest of everything in the manifest but the fingerprint itself."""
    content = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return f"{manifest['kind']}-{sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]}"


def file_sha256(path: Path) -> str:
    """SHA-256 of a file in hex. Raises BadArtifact if the file cannot be read."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadArtifact(f"{path}: {error.strerror}") from error
