"""Manage the versions of the served models: load, label, lease to requests, drain and unload. Reads files.

A version goes through START, LOADING, AVAILABLE, UNLOADING, END; one that fails to load ends with its error. What to do
next is decided by `encoders.serving.policy`; a version in use is unloaded when its last request ends. For use on one
event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
from collections.abc import Callable, Collection, Coroutine, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from encoders.image.card import read_exported_card
from encoders.image.models import find_versions
from encoders.serving.batching import BatchingParameters
from encoders.serving.metrics import LOADS, QUEUED_IMAGES
from encoders.serving.model import LoadedVersion, ModelConfig, ModelVersion, ServedModel
from encoders.serving.policy import (
    AVAILABLE,
    END,
    LOADING,
    UNLOADING,
    Load,
    Unload,
    aspired_versions,
    next_action,
)
from encoders.serving.saved_model import Servable
from encoders.serving.scheduler import BatchScheduler
from encoders.tfserving.v1 import prediction_pb2 as pb
from lookalike.errors import BadArtifact, DeadlineExceeded, FailedPrecondition, InvalidRequest, NotFound
from lookalike.runtime.deadline import Deadline

log = logging.getLogger(__name__)

Result = TypeVar("Result")


class ModelManager:
    """The served models (TensorFlow-Serving's AspiredVersionsManager).

    load:   loads a version; blocking, called on a separate thread while the old versions keep serving.
    needed: the fingerprints of encoders that are served beside what the policy says; blocking, called on that thread.
    """

    def __init__(
        self,
        configs: Sequence[ModelConfig],
        load: Callable[[Path], Servable],
        batching: BatchingParameters,
        needed: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._models: dict[str, ServedModel] = {}
        self._configure(configs)
        self._load = load
        self._needed = needed
        self._scheduler = BatchScheduler(batching)
        self._load_thread = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._reconcile_lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()  # The event loop holds tasks only weakly.

    async def start(self) -> None:
        """Load the aspired versions, then assign their labels. Raises BadArtifact, FailedPrecondition."""
        await self.reconcile()
        for model in self._models.values():
            if not model.available():
                raise BadArtifact(f"no version of {model.name} could be loaded: {model.error()}")
        self._assign_labels([model.config for model in self._models.values() if model.config])

    async def watch(self, poll_s: float) -> None:
        """Reconcile every `poll_s` seconds (0: never by time), and whenever the configuration has changed."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(poll_s or None):
                    await self._changed.wait()
            self._changed.clear()
            try:
                await self.reconcile()
            except OSError as error:
                log.error("the model folders cannot be read: %s", error)

    def close(self) -> None:
        self._scheduler.close()
        self._load_thread.shutdown(wait=False, cancel_futures=True)

    @contextlib.contextmanager
    def lease(self, spec: pb.ModelSpec) -> Iterator[LoadedVersion]:
        """Resolve a request's version, and keep it loaded until the request ends. Raises InvalidRequest, NotFound."""
        version, loaded = self._resolve(spec)
        with version.in_use():
            yield loaded

    def statuses(self, spec: pb.ModelSpec) -> list[pb.ModelVersionStatus]:
        """Status of the requested version, or of all, highest first. Raises InvalidRequest, NotFound."""
        model = self._models.get(spec.name)
        versions = model.versions if model else {}
        number = self._resolve_version(spec)
        if number is not None:
            if number not in versions:
                raise NotFound(f"Could not find version {number} of model {spec.name}")
            return [versions[number].status()]
        if not versions:
            raise NotFound(f"Could not find any versions of model {spec.name}")
        return [versions[version].status() for version in sorted(versions, reverse=True)]

    async def reload(self, configs: Sequence[ModelConfig], deadline: Deadline) -> None:
        """Replace the configuration. Returns once new models are AVAILABLE; other changes follow in the background.

        Raises FailedPrecondition for a label of a version that is not AVAILABLE (then nothing is changed), or if no
        version of a new model could be loaded; DeadlineExceeded.
        """
        self._assign_labels(configs)
        served = {name for name, model in self._models.items() if model.config}
        self._configure(configs)
        self._changed.set()
        new_models = [config.name for config in configs if config.name not in served]
        if not new_models:
            return
        # Shielded: it continues if the caller gives up, so that no version stays half loaded.
        reconciling = self._start_task(self.reconcile())
        try:
            async with asyncio.timeout(deadline.timeout_s()):
                await asyncio.shield(reconciling)
        except TimeoutError:
            raise DeadlineExceeded(f"the deadline passed while loading {', '.join(new_models)}") from None
        for model in (self._models[name] for name in new_models):
            if not model.available():
                raise FailedPrecondition(f"model(s) did not become available: {model.name}: {model.error()}")

    async def reconcile(self) -> None:
        """Scan the folders, and load and unload versions until the aspired ones are served. Raises OSError."""
        async with self._reconcile_lock:
            for model in list(self._models.values()):
                await self._reconcile_model(model)

    def _configure(self, configs: Sequence[ModelConfig]) -> None:
        for model in self._models.values():
            model.config = None
        for config in configs:
            self._models.setdefault(config.name, ServedModel(config.name)).config = config

    def _assign_labels(self, configs: Sequence[ModelConfig]) -> None:
        """Assign all labels, or none if one names a version that is not AVAILABLE. Raises FailedPrecondition."""
        for config in configs:
            available = self._models[config.name].available() if config.name in self._models else []
            for number in config.labels.values():
                if number not in available:
                    raise FailedPrecondition(
                        f"Request to assign label to version {number} of model {config.name}, "
                        "which is not currently available for inference"
                    )
        labels = {config.name: config.labels for config in configs}
        for name, model in self._models.items():
            model.labels = labels.get(name, {})

    async def _reconcile_model(self, model: ServedModel) -> None:
        """Load and unload versions of one model until the aspired ones are served. Raises OSError."""
        existing: dict[int, Path] = {}
        if model.config is not None:
            base = model.config.base_path
            existing = await self._run_in_thread(find_versions, base.parent, base.name)
        aspired = aspired_versions(model.config.policy, existing) if model.config else frozenset()
        aspired |= await self._run_in_thread(self._needed_versions, existing)
        # As TensorFlow-Serving's servable_versions_always_present: keep serving if the folder is empty for a moment or
        # a version was misspelt.
        if model.config is not None and not aspired:
            if not model.missing:
                log.warning("none of the versions to serve of %s exists in %s", model.name, model.config.base_path)
            model.missing = True
            return
        model.missing = False
        for version in model.versions.values():
            version.retired |= version.state == END and version.number not in aspired
        while (action := next_action(model.states(), aspired)) is not None:
            match action:
                case Load(number):
                    await self._load_version(model, number, existing[number])
                case Unload(number):
                    self._unload_version(model.versions[number])
        model.forget_oldest()

    def _needed_versions(self, existing: Mapping[int, Path]) -> frozenset[int]:
        """The highest version of each encoder that is needed."""
        if not existing or not (needed := self._needed()):
            return frozenset()
        versions = {_fingerprint(path): number for number, path in sorted(existing.items())}
        return frozenset(number for fingerprint, number in versions.items() if fingerprint in needed)

    async def _load_version(self, model: ServedModel, number: int, path: Path) -> None:
        """Load a version on the thread for loading; it ends AVAILABLE, or in END with its error."""
        version = model.versions[number] = ModelVersion(model.name, number)
        version.set_state(LOADING)
        try:
            servable = await self._run_in_thread(self._load, path)
        except Exception as error:  # Any error ends this version only, never the others.
            log.error("version %d of %s could not be loaded: %s", number, model.name, error)
            LOADS.labels(model.name, "failed").inc()
            version.error = error
            version.set_state(END)
            return
        loaded = LoadedVersion(model.name, number, servable, self._scheduler.add_session(servable))
        version.loaded = loaded
        QUEUED_IMAGES.labels(model.name, str(number)).set_function(lambda: loaded.session.queue.rows)
        LOADS.labels(model.name, "loaded").inc()
        version.set_state(AVAILABLE)
        log.info("serving version %d of %s: %s", number, model.name, servable.encoder)

    def _unload_version(self, version: ModelVersion) -> None:
        """Accept no more requests for a version, and drain it in the background."""
        version.set_state(UNLOADING)
        self._start_task(self._drain(version))

    async def _drain(self, version: ModelVersion) -> None:
        """Wait until a version's last request ends, then free it."""
        await version.wait_until_idle()
        if version.loaded is not None:
            self._scheduler.remove_session(version.loaded.session)
            QUEUED_IMAGES.remove(version.model, str(version.number))
        version.loaded = None
        # A SavedModel is full of reference cycles: over 24 version changes a server grew from 0.9 to 2.9 GB without
        # this, to 1.1 GB with it.
        await self._run_in_thread(gc.collect)
        version.retired = True
        version.set_state(END)
        self._changed.set()  # It may be aspired again by now.
        log.info("unloaded version %d of %s", version.number, version.model)

    def _start_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _run_in_thread(self, call: Callable[..., Result], *args: object) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._load_thread, call, *args)

    def _resolve(self, spec: pb.ModelSpec) -> tuple[ModelVersion, LoadedVersion]:
        if not spec.name:
            raise InvalidRequest("model_spec", "ModelSpec has no name specified.")
        number, model = self._resolve_version(spec), self._models.get(spec.name)
        latest = max(model.available(), default=None) if model else None
        requested = latest if number is None else number
        version = model.versions.get(requested) if model and requested is not None else None
        if version is None or version.loaded is None or version.state != AVAILABLE:
            request = f"Latest({spec.name})" if number is None else f"Specific({spec.name}, {number})"
            raise NotFound(f"Servable not found for request: {request}")
        return version, version.loaded

    def _resolve_version(self, spec: pb.ModelSpec) -> int | None:
        if spec.HasField("version"):
            return spec.version.value
        if not spec.HasField("version_label"):
            return None
        labels = self._models[spec.name].labels if spec.name in self._models else {}
        if spec.version_label not in labels:
            raise InvalidRequest("model_spec", f"Unrecognized servable version label: {spec.version_label}")
        return labels[spec.version_label]


def _fingerprint(path: Path) -> str:
    """The encoder of an exported version; empty if its card cannot be read."""
    try:
        return read_exported_card(path).fingerprint
    except BadArtifact:
        return ""
