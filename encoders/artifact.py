"""What training leaves: a folder of files and a manifest with the digest of each. Reads and writes files.

The fingerprint of an encoder is its kind and a digest of its manifest, hence of every file and every fact.
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

MANIFEST = "manifest.json"
Files = Mapping[str, Collection[str]]  # Of each kind of encoder, the files that it has beside the manifest.


def written(out: Path, *, kind: str, form: int, files: Files, fill: Callable[[Path], Mapping[str, Any]]) -> str:
    """Make the new folder `out` of the files that `fill` writes and the facts that it returns; the fingerprint.

    Whole or not at all. What a run that was killed left is removed by the next one with the same `out`.
    Raises OperatorError where `out` exists or cannot be written.
    """
    if out.exists():
        raise OperatorError(f"{out} exists already")
    part = out.with_name(out.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        facts = fill(part)
        digests = {path.name: digest_of(path) for path in sorted(part.iterdir())}
        if missing := set(files[kind]) - digests.keys():
            raise OperatorError(f"{part / min(missing)} is gone: does another command write {out}?")
        manifest = {"format": form, "kind": kind, **facts, "files": digests}
        fingerprint = fingerprint_of(manifest)
        text = json.dumps({"fingerprint": fingerprint, **manifest}, indent=1, ensure_ascii=False)
        (part / MANIFEST).write_text(text + "\n", encoding="utf-8")
        part.rename(out)
    except OSError as error:
        raise OperatorError(f"{out} cannot be written: {error}") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return fingerprint


def manifest_of(directory: Path, *, form: int, files: Files) -> dict[str, Any]:
    """The manifest, once every file has been found to be what it says.

    form, files: what it must have, and must hold, of each kind that it may be. Raises BadArtifact, naming the file
    at fault.
    """
    path = directory / MANIFEST
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadArtifact(f"{path}: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != form or manifest.get("kind") not in files:
        raise BadArtifact(f"{path}: not a {' or '.join(files)} encoder of format {form}")
    if manifest.get("fingerprint") != fingerprint_of(manifest):
        raise BadArtifact(f"{path}: changed since it was written")
    if missing := set(files[manifest["kind"]]) - set(manifest["files"]):
        raise BadArtifact(f"{path}: {min(missing)} is not among the files")
    for name, digest in manifest["files"].items():
        if Path(name).name != name:
            raise BadArtifact(f"{path}: {name} is not in the directory")
        if digest_of(directory / name) != digest:
            raise BadArtifact(f"{directory / name}: not the file that the manifest describes")
    return manifest


def arrays_of(directory: Path, names: Collection[str]) -> dict[str, npt.NDArray[Any]]:
    """NAME.npy of each name, files that the manifest has been found to describe. Raises BadArtifact."""
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
