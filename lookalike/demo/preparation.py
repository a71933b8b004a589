"""The demo's build steps before anything is served: catalogue, image model, index. Runs commands, writes files.

The build cache skips a step while its inputs are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from lookalike.demo.build_cache import BuildCache, metadata_digest, source_digest
from lookalike.errors import BadArtifact, BadCatalogue, BadSettings, OperatorError
from lookalike.local import process_specs
from lookalike.local.location import read_current


@dataclass(frozen=True, kw_only=True)
class ExportedModels:
    """The directory that the model server loads, and which image encoder is in it."""

    directory: Path
    encoder: str  # Fingerprint of the image encoder.
    fallback_reason: str  # Why untrained weights are used instead of ImageNet's; empty: they are not.


@dataclass(frozen=True, kw_only=True)
class BuiltIndex:
    """An index location with the version that `lookalike update` built there."""

    location: Path
    version: str
    products: int
    rejected: int
    spaces: Sequence[str]


class Preparation:
    """The build steps. Each is a command run by `run(name, command, show_stderr=…)`, as `Supervisor.run` does it.

    state: the directory that all outputs and the build cache are kept in.
    """

    def __init__(self, console: Console, run: Callable[..., str], state: Path) -> None:
        self._console = console
        self._run = run
        self._state = state
        self._cache = BuildCache(state / "build-cache")

    def prepare_catalogue(self, directory: Path | None) -> Path:
        """The user's catalogue directory, or a sample that is drawn once. Raises BadCatalogue."""
        if directory is not None:
            if not directory.is_dir():
                raise BadCatalogue(f"{directory}: no such directory")
            return directory
        sample = self._state / "catalogue"
        inputs = {"code": source_digest(process_specs.ROOT, "lookalike/demo/sample")}

        def draw() -> str:
            part = sample.with_name("catalogue.part")
            for leftover in (part, sample):
                shutil.rmtree(leftover, ignore_errors=True)
            self._run("catalog sample", process_specs.lookalike_command("catalog", "sample", part), show_stderr=True)
            return str(part.rename(sample))

        self._run_step("sample catalogue", "catalogue", inputs, draw, outputs=lambda _: [sample])
        return sample

    def export_models(self, weights: str) -> ExportedModels:
        """The image model with weights from a file, "imagenet" or "untrained"; "": ImageNet's, else untrained."""
        file = Path(weights).expanduser().resolve() if weights not in ("", "imagenet", "untrained") else None
        if file is not None and not file.is_file():
            raise BadSettings(f"--weights {weights}: expected imagenet, untrained, or an existing file")
        choice = f"file-{hashlib.sha256(bytes(file)).hexdigest()[:12]}" if file else weights or "automatic"
        directory = self._state / "models" / choice
        inputs = {
            "code": source_digest(process_specs.ROOT, "encoders"),
            "weights": metadata_digest(file) if file else weights,
        }

        def export() -> dict[str, str]:
            if weights:
                return {"encoder": self._export(directory, str(file or weights)), "fallback_reason": ""}
            try:
                return {"encoder": self._export(directory, "imagenet"), "fallback_reason": ""}
            except OperatorError as error:
                reason = str(error).splitlines()[-1].strip()  # The last line that the command printed.
                return {"encoder": self._export(directory, "untrained"), "fallback_reason": reason}

        result = self._run_step("image model", f"models-{choice}", inputs, export, outputs=lambda _: [directory])
        return ExportedModels(directory=directory, encoder=result["encoder"], fallback_reason=result["fallback_reason"])

    def _export(self, directory: Path, weights: str) -> str:
        command = process_specs.lookalike_command("encoders", "export", directory, "--weights", weights, "--json")
        encoder: str = json.loads(self._run("encoders export", command))["encoder"]
        return encoder

    def cached_index(self, catalogue: Path, models: ExportedModels) -> BuiltIndex | None:
        """The index of the last build; None if any input has changed since then."""
        result = self._cache.result("index", self._index_inputs(catalogue, models))
        location = self._location(catalogue)
        if result is None or not _serves(location, result["version"]):
            return None
        self._print_step("index", "unchanged")
        return _built_index(location, result)

    def build_index(self, catalogue: Path, models: ExportedModels, model_server: str) -> BuiltIndex:
        """Build the index with `lookalike update`; `model_server` is the address (host:port) of the image encoder."""
        arguments: list[str | Path | int] = [
            "--model-server",
            model_server,
            "--artifacts",
            self._state / "encoders",
            "--json",
        ]
        location = self._location(catalogue)
        command = process_specs.lookalike_command("update", catalogue, location, *arguments)
        result = self._run_step(
            "index",
            "index",
            self._index_inputs(catalogue, models),
            lambda: json.loads(self._run("update", command, show_stderr=True)),
            outputs=lambda result: [location / result["version"]],
        )
        return _built_index(location, result)

    def _index_inputs(self, catalogue: Path, models: ExportedModels) -> Mapping[str, Any]:
        return {
            "catalogue": [str(catalogue), metadata_digest(catalogue)],
            "encoder": models.encoder,
            "code": source_digest(process_specs.ROOT, "pipeline", "encoders", "index"),
        }

    def _location(self, catalogue: Path) -> Path:
        """Of the index of this catalogue: an update would refuse another one in its place as too great a change."""
        name = f"{catalogue.name}-{hashlib.sha256(bytes(catalogue)).hexdigest()[:8]}"
        return self._state / "catalogues" / name / "index"

    def _run_step(
        self,
        label: str,
        step: str,
        inputs: Mapping[str, Any],
        build: Callable[[], Any],
        *,
        outputs: Callable[[Any], Sequence[Path]],
    ) -> Any:
        """The step's result (anything JSON can hold): from the build cache, or else from running it now."""
        if (result := self._cache.result(step, inputs)) is not None:
            self._print_step(label, "unchanged")
            return result
        self._console.print(f"… {label}")
        self._cache.invalidate(step)
        started_s = time.monotonic()
        result = build()
        self._cache.store(step, inputs, result, outputs=outputs(result))
        self._print_step(label, f"{time.monotonic() - started_s:.1f} s")
        return result

    def _print_step(self, label: str, status: str) -> None:
        self._console.print(f"[green]✓[/] {label} [dim]{status}[/]")


def _serves(location: Path, version: str) -> bool:
    """Whether the location still serves this version: the user may have run `update` there since."""
    try:
        return read_current(location).version == version
    except BadArtifact:
        return False


def _built_index(location: Path, result: Mapping[str, Any]) -> BuiltIndex:
    """From the JSON that `lookalike update --json` prints."""
    return BuiltIndex(
        location=location,
        version=result["version"],
        products=result["products"],
        rejected=result["rejected"],
        spaces=tuple(result["spaces"]),
    )
