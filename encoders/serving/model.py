"""A served model and its versions: configuration, version states, and requests in flight. No I/O."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from grpc import StatusCode

from encoders.serving.metrics import VERSION_STATE
from encoders.serving.policy import AVAILABLE, Latest, State, VersionPolicy
from encoders.serving.saved_model import Servable
from encoders.serving.scheduler import BatchingSession
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.errors import BadArtifact
from lookalike.status import code_of

MAX_ENDED_VERSIONS: Final = 16  # Ended versions per model that GetModelStatus lists; beyond it the oldest are dropped.


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What to serve of one model, as in TensorFlow-Serving's ModelConfig."""

    name: str
    base_path: Path  # contains a folder per version
    policy: VersionPolicy = Latest()  # noqa: RUF009  # frozen
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, with its batching session."""

    model: str
    number: int
    servable: Servable
    session: BatchingSession


class ModelVersion:
    """One version of one model: its state, and how many requests use it."""

    def __init__(self, model: str, number: int) -> None:
        self.model = model
        self.number = number
        self.error: Exception | None = None  # why it ended, if it failed to load
        self.loaded: LoadedVersion | None = None
        self.retired = False  # ended and no longer aspired: loaded again if it is aspired again
        self._users = 0
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def state(self) -> State:
        return self._state

    def set_state(self, state: State) -> None:
        self._state = state
        VERSION_STATE.labels(self.model, str(self.number)).set(state)

    @contextlib.contextmanager
    def in_use(self) -> Iterator[None]:
        self._users += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._idle.set()

    async def wait_until_idle(self) -> None:
        await self._idle.wait()

    def status(self) -> pb.ModelVersionStatus:
        status = pb.StatusProto()
        if self.error is not None:
            code = StatusCode.INVALID_ARGUMENT if isinstance(self.error, BadArtifact) else code_of(self.error)
            status = pb.StatusProto(error_code=code.value[0], error_message=str(self.error))
        return pb.ModelVersionStatus(version=self.number, state=self.state, status=status)


class ServedModel:
    """One model: its configuration, labels and versions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config: ModelConfig | None = None  # None: no longer served
        self.versions: dict[int, ModelVersion] = {}
        self.labels: Mapping[str, int] = {}
        self.missing = False  # no aspired version exists in the folder

    def available(self) -> list[int]:
        return [version.number for version in self.versions.values() if version.state == AVAILABLE]

    def states(self) -> dict[int, State]:
        return {version.number: version.state for version in self.versions.values() if not version.retired}

    def error(self) -> str:
        """The error of the last version that failed to load."""
        errors = [str(version.error) for version in self.versions.values() if version.error and not version.retired]
        return errors[-1] if errors else "there is none"

    def forget_oldest(self) -> None:
        """Forget the oldest ended versions, beyond MAX_ENDED_VERSIONS."""
        ended = sorted(version.number for version in self.versions.values() if version.retired)
        for number in ended[:-MAX_ENDED_VERSIONS]:
            del self.versions[number]
            VERSION_STATE.remove(self.name, str(number))
