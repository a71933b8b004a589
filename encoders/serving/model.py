"""A model and its versions: what is wanted of it, what state each is in, and who still uses it. No I/O."""

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

MAX_ENDED_VERSIONS: Final = (
    16  # Versions of a model that have ended and are still told of; beyond it the oldest are forgotten.
)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    name: str
    base_path: Path  # its versions are the folders in it
    policy: VersionPolicy = Latest()  # noqa: RUF009  # frozen
    labels: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LoadedVersion:
    """A version in memory, and the queue of its requests."""

    model: str
    number: int
    servable: Servable
    session: BatchingSession


class ModelVersion:
    """One version of one model."""

    def __init__(self, model: str, number: int) -> None:
        self.model = model
        self.number = number
        self.error: Exception | None = None  # why it ended, if it did not end well
        self.loaded: LoadedVersion | None = None
        self.retired = False  # ended, and since then not wanted: if it is wanted again, it is loaded again
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
    """One model: what it should be, and its versions."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.config: ModelConfig | None = None  # None: no longer to be served
        self.versions: dict[int, ModelVersion] = {}
        self.labels: Mapping[str, int] = {}
        self.missing = False  # none of the versions that are wanted is there

    def available(self) -> list[int]:
        return [version.number for version in self.versions.values() if version.state == AVAILABLE]

    def states(self) -> dict[int, State]:
        return {version.number: version.state for version in self.versions.values() if not version.retired}

    def error(self) -> str:
        """Why the last version that failed to load did so."""
        errors = [str(version.error) for version in self.versions.values() if version.error and not version.retired]
        return errors[-1] if errors else "none is there"

    def forget_oldest(self) -> None:
        """The oldest of those that ended."""
        ended = sorted(version.number for version in self.versions.values() if version.retired)
        for number in ended[:-MAX_ENDED_VERSIONS]:
            del self.versions[number]
            VERSION_STATE.remove(self.name, str(number))
