"""What training leaves: a folder of files and a manifest with the digest of each. Reads and writes files.

The fingerprint of an encoder is its kind and a digest of its manifest, hence of every file and every fact.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from lookalike.errors import BadArtifact, OperatorError

MANIFEST = "manifest.json"


def written(out: Path, *, kind: str, form: int, fill: Callable[[Path], Mapping[str, Any]]) -> str:
    """Make the new folder `out` of the files that `fill` writes and the facts that it returns; the fingerprint.

    Whole or not at all. Raises OperatorError where `out` exists.
    """
    if out.exists():
        raise OperatorError(f"{out} exists already")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        facts = fill(part)
        files = {path.name: digest_of(path) for path in sorted(part.iterdir())}
        manifest = {"format": form, "kind": kind, **facts, "files": files}
        fingerprint = fingerprint_of(manifest)
        text = json.dumps({"fingerprint": fingerprint, **manifest}, indent=1, ensure_ascii=False)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return fingerprint


def manifest_of(directory: Path, *, kinds: Sequence[str], form: int, files: Collection[str]) -> dict[str, Any]:
    """The manifest, once every file has been found to be what it says.

    kinds, form, files: what it may be, must have and must hold. Raises BadArtifact, naming the file at fault.
    """
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != form or manifest.get("kind") not in kinds:
        raise BadArtifact(f"{path}: not a {' or '.join(kinds)} encoder of format {form}")
    if manifest.get("fingerprint") != fingerprint_of(manifest):
        raise BadArtifact(f"{path}: changed since it was written")
    if missing := set(files) - set(manifest["files"]):
        raise BadArtifact(f"{path}: {min(missing)} is not among the files")
    for name, digest in manifest["files"].items():
        if Path(name).name != name:
            raise BadArtifact(f"{path}: {name} is not in the directory")
        if digest_of(directory / name) != digest:
            raise BadArtifact(f"{directory / name}: not the file that the manifest describes")
    return manifest


def arrays_of(directory: Path, names: Collection[str], manifest: Mapping[str, Any]) -> dict[str, npt.NDArray[Any]]:
    """NAME.npy of each name. Raises BadArtifact, also for one that the manifest does not describe."""
    if missing := {f"{name}.npy" for name in names} - set(manifest["files"]):
        raise BadArtifact(f"{directory / MANIFEST}: {min(missing)} is not among the files")
    try:
        return {name: np.load(directory / f"{name}.npy", allow_pickle=False) for name in names}
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{directory}: {error}") from error


def fingerprint_of(manifest: Mapping[str, Any]) -> str:
    said = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return f"{manifest['kind']}-{sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]}"


def digest_of(path: Path) -> str:
    """SHA-256 in hex. Raises BadArtifact where there is no such file."""
    try:
        with path.open("rb") as file:
            return file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise BadArtifact(f"{path}: {error.strerror}") from error
