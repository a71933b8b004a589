"""What the demo builds before anything is served: catalogue, image model, index. Runs commands, writes its state.

Every step is remembered with what went into it, and skipped while that is the same.
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

from lookalike.demo import build_cache
from lookalike.demo.build_cache import Stamps
from lookalike.errors import BadArtifact, BadCatalogue, BadSettings, OperatorError
from lookalike.local import location, process_specs

SHARDS = 2


@dataclass(frozen=True, kw_only=True)
class Models:
    directory: Path
    encoder: str  # Fingerprint of the image encoder.
    fell_back: str  # Why the weights are not those that were wished for; empty: they are.


@dataclass(frozen=True, kw_only=True)
class Index:
    location: Path
    version: str
    text_artifact: Path | None  # None: no product has a word.
    product_artifact: Path | None  # None: there is no product space.
    products: int
    rejected: int
    spaces: Sequence[str]


class Preparation:
    """The steps, each a command run by `run(name, command, shown=…)`, as `Supervisor.run` does; kept in `state`."""

    def __init__(self, console: Console, run: Callable[..., str], state: Path) -> None:
        self._console = console
        self._run = run
        self._state = state
        self._stamps = Stamps(state / "stamps")

    def catalogue(self, given: Path | None) -> Path:
        """The given directory, else a sample. Raises BadCatalogue."""
        if given is not None:
            if not given.is_dir():
                raise BadCatalogue(f"{given}: no such directory")
            return given
        sample = self._state / "catalogue"
        inputs = {"code": build_cache.sources(process_specs.ROOT, "lookalike/demo/sample")}

        def draw() -> str:
            drawn = sample.with_name("catalogue.part")
            for left in (drawn, sample):
                shutil.rmtree(left, ignore_errors=True)
            self._run("catalog sample", process_specs.lookalike_command("catalog", "sample", drawn), shown=True)
            return str(drawn.rename(sample))

        self._step("sample catalogue", "catalogue", inputs, draw, made=lambda _: [sample])
        return sample

    def models(self, weights: str) -> Models:
        """The image model with the weights of a file, "imagenet", "untrained", or ("") the best to be had."""
        file = Path(weights).expanduser().resolve() if weights not in ("", "imagenet", "untrained") else None
        if file is not None and not file.is_file():
            raise BadSettings(f"--weights {weights}: neither imagenet, nor untrained, nor a file")
        choice = f"file-{hashlib.sha256(bytes(file)).hexdigest()[:12]}" if file else weights or "automatic"
        directory = self._state / "models" / choice
        inputs = {
            "code": build_cache.sources(process_specs.ROOT, "encoders"),
            "weights": build_cache.state_of(file) if file else weights,
        }

        def export() -> dict[str, str]:
            if weights:
                return {"encoder": self._export(directory, str(file or weights)), "fell_back": ""}
            try:
                return {"encoder": self._export(directory, "imagenet"), "fell_back": ""}
            except OperatorError as error:
                why = str(error).splitlines()[-1].strip()  # The command's own last line.
                return {"encoder": self._export(directory, "untrained"), "fell_back": why}

        told = self._step("image model", f"models-{choice}", inputs, export, made=lambda _: [directory])
        return Models(directory=directory, encoder=told["encoder"], fell_back=told["fell_back"])

    def _export(self, directory: Path, weights: str) -> str:
        command = process_specs.lookalike_command("encoders", "export", directory, "--weights", weights, "--json")
        encoder: str = json.loads(self._run("encoders export", command))["encoder"]
        return encoder

    def built_index(self, catalogue: Path, models: Models) -> Index | None:
        """The index, where nothing that goes into it has changed since it was built."""
        told = self._stamps.outcome("index", self._index_inputs(catalogue, models))
        if told is None or not self._serves(told["version"]):
            return None
        self._say("index", "unchanged")
        return self._index(told)

    def build_index(self, catalogue: Path, models: Models, model_server: str) -> Index:
        """Build it, with the model server at an address."""
        words: list[str | Path | int] = [
            "--model-server",
            model_server,
            "--artifacts",
            self._state / "encoders",
            "--shards",
            SHARDS,
            "--json",
        ]
        command = process_specs.lookalike_command("update", catalogue, self._location, *words)
        told = self._step(
            "index",
            "index",
            self._index_inputs(catalogue, models),
            lambda: json.loads(self._run("update", command, shown=True)),
            made=lambda told: [
                *(Path(told[name]) for name in ("text_artifact", "product_artifact") if told[name]),
                self._location / told["version"],
            ],
        )
        return self._index(told)

    def _serves(self, version: str) -> bool:
        """Whether the location is as the last build left it: an `update` by hand may have come between."""
        try:
            return location.current(self._location).name == version
        except BadArtifact:
            return False

    def _index_inputs(self, catalogue: Path, models: Models) -> Mapping[str, Any]:
        return {
            "catalogue": [str(catalogue), build_cache.state_of(catalogue)],
            "encoder": models.encoder,
            "shards": SHARDS,
            "code": build_cache.sources(process_specs.ROOT, "pipeline", "encoders", "index"),
        }

    def _index(self, told: Mapping[str, Any]) -> Index:
        text, product = told["text_artifact"], told["product_artifact"]
        return Index(
            location=self._location,
            version=told["version"],
            text_artifact=Path(text) if text else None,
            product_artifact=Path(product) if product else None,
            products=told["products"],
            rejected=told["rejected"],
            spaces=tuple(told["spaces"]),
        )

    @property
    def _location(self) -> Path:
        return self._state / "index"

    def _step(
        self,
        what: str,
        step: str,
        inputs: Mapping[str, Any],
        do: Callable[[], Any],
        *,
        made: Callable[[Any], Sequence[Path]],
    ) -> Any:
        """The outcome (JSON can hold it) of a step: remembered, or of doing it now."""
        if (outcome := self._stamps.outcome(step, inputs)) is not None:
            self._say(what, "unchanged")
            return outcome
        self._console.print(f"… {what}")
        self._stamps.begin(step)
        started_s = time.monotonic()
        outcome = do()
        self._stamps.done(step, inputs, outcome, made=made(outcome))
        self._say(what, f"{time.monotonic() - started_s:.1f} s")
        return outcome

    def _say(self, what: str, how: str) -> None:
        self._console.print(f"[green]✓[/] {what} [dim]{how}[/]")
