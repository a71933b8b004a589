"""Runs tasks on a Ray cluster. Does network I/O.

Ray serialises with cloudpickle what goes between its own processes: tasks, inputs, results and errors. That is confined
to this module: nothing that we write, or read from a file, is pickled. Whoever reaches the ports of a Ray cluster can
run code on it, so they belong into a network of their own.
"""

from __future__ import annotations

import functools
import hashlib
import os
import platform
import socket
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import lookalike
from lookalike.errors import BadSettings, LookalikeError, OperatorError
from lookalike.runtime.engine import Item, Result, TaskNeeds

AUTO_ADDRESS, _CLIENT = "auto", "ray://"
# Of a task whose process or node dies. An error that the task raises itself is final.
MAX_RETRIES = 4
_AHEAD = 2  # Tasks in flight for each that can run: the next one is at its node when one ends.
_CONNECT_S = 10
# The folders of code that tasks are of, and the packages that decide what they compute.
_FOLDERS = ("lookalike", "encoders", "index", "pipeline")
_PACKAGES = ("numpy", "faiss-cpu", "faiss-gpu", "rabitqlib", "ngt", "pyarrow", "pillow", "pillow-heif")
_WITNESS_BYTES = 1 << 16


@dataclass(frozen=True)
class _Witness:
    """A file as this machine sees it."""

    path: Path
    size: int
    digest: str  # Of its first bytes.

    @classmethod
    def of(cls, path: Path) -> _Witness:
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(_WITNESS_BYTES)).hexdigest()
            return cls(path, os.fstat(file.fileno()).st_size, digest)


@dataclass(frozen=True)
class _Expected:
    """What every node must have as this machine does."""

    software: tuple[tuple[str, str], ...]
    files: tuple[_Witness, ...]


class RayEngine:
    """An `Engine` on the cluster that this process is connected to (`connect`)."""

    def __init__(self, ray: Any) -> None:
        self._ray = ray
        self._run = ray.remote(_run)
        self._software = software()

    def threads_per_task(self, tasks: int) -> int:
        """At most the cores of the smallest node, so that any node can run any task."""
        cores = [int(node["Resources"]["CPU"]) for node in self._nodes()]
        return max(1, min(sum(cores) // max(1, tasks), *cores))

    def map(
        self, task: Callable[[Item], Result], items: Iterable[Item], needs: TaskNeeds
    ) -> Generator[Result, None, None]:
        nodes = self._nodes()
        # What takes more memory than any node has runs alone on the node with the most.
        memory_bytes = min(needs.memory_bytes, max(int(node["Resources"].get("memory", 0)) for node in nodes))
        run = self._run.options(
            num_cpus=needs.threads,
            memory=memory_bytes or None,
            max_retries=MAX_RETRIES,
            scheduling_strategy="SPREAD",
            name=getattr(task, "__name__", "task"),
        )
        expected = _Expected(self._software, tuple(map(_Witness.of, needs.files)))
        ahead = max(2, _AHEAD * sum(int(node["Resources"]["CPU"]) for node in nodes) // needs.threads)
        pending: deque[Any] = deque()
        try:
            for item in items:
                pending.append(run.remote(expected, task, item))
                if len(pending) >= ahead:
                    yield self._result(pending.popleft())
            while pending:
                yield self._result(pending.popleft())
        finally:
            for reference in pending:
                self._ray.cancel(reference, force=True)

    def _nodes(self) -> list[Any]:
        """The nodes that run tasks: a head node often runs none. Raises OperatorError if there is no such node."""
        nodes = [node for node in self._ray.nodes() if node["Alive"] and node["Resources"].get("CPU", 0) >= 1]
        if not nodes:
            raise OperatorError("Ray: no node of the cluster has a core for tasks (ray start --num-cpus)")
        return nodes

    def _result(self, reference: Any) -> Any:
        errors = self._ray.exceptions
        try:
            return self._ray.get(reference)
        except errors.RayTaskError as error:
            if isinstance(error.cause, LookalikeError):
                raise error.cause from None
            if isinstance(error.cause, ImportError):
                raise OperatorError(f"Ray: a node cannot import what tasks need: {error.cause}") from None
            raise
        except errors.RayError as error:
            first_line = str(error).strip().partition("\n")[0]
            raise OperatorError(f"Ray: a task was lost {1 + MAX_RETRIES} times: {first_line}") from error


@contextmanager
def connect(address: str) -> Iterator[RayEngine]:
    """An engine on the cluster at `auto` (this machine is a node of it), host:port (too) or ray://host:port.

    Raises BadSettings if Ray is not installed, OperatorError if no cluster answers, or one of other versions.
    """
    if find_spec("ray") is None:
        raise BadSettings("--engine ray: Ray is not installed: it is the dependency group `ray`")
    _check_listening(address)
    ray = import_module("ray")
    try:
        ray.init(address=address, log_to_driver=False, logging_level="error", **_options(address))
    except (ConnectionError, TimeoutError, ValueError) as error:
        raise OperatorError(f"--ray-address {address}: no Ray cluster answers: {error}") from error
    except RuntimeError as error:  # Ray has no other type for another version of Ray or Python.
        raise OperatorError(f"--ray-address {address}: {error}") from error
    try:
        yield RayEngine(ray)
    finally:
        ray.shutdown()


def _check_listening(address: str) -> None:
    """Raise OperatorError if nothing listens at host:port: Ray would wait for minutes, and then end this process."""
    if address == AUTO_ADDRESS:
        return
    host, _, port = address.removeprefix(_CLIENT).rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_S).close()
    except ValueError:
        raise BadSettings(f"--ray-address {address}: expected auto, HOST:PORT or ray://HOST:PORT") from None
    except OSError as error:
        raise OperatorError(f"--ray-address {address}: no Ray cluster answers: {error}") from error


def _options(address: str) -> dict[str, Any]:
    """Ray's client (ray://) takes fewer than a process on a node."""
    return {} if address.startswith(_CLIENT) else {"configure_logging": False, "include_dashboard": False}


def _run(expected: _Expected, task: Callable[[Item], Result], item: Item) -> Result:
    """Run a task, on a node that has what it needs. Raises OperatorError naming the node."""
    _check_node(expected)
    return task(item)


@functools.lru_cache(maxsize=16)
def _check_node(expected: _Expected) -> None:
    """Once for each process and phase: errors are not kept."""
    node, found = f"Ray: node {platform.node()}", dict(software())
    for name, wanted in expected.software:
        if found[name] != wanted:
            raise OperatorError(f"{node} has {name} {found[name]}, this machine {wanted}: they must be the same")
    for witness in expected.files:
        try:
            same = _Witness.of(witness.path) == witness
        except OSError:
            same = False
        if not same:
            raise OperatorError(
                f"{node} does not have {witness.path} as this machine does: every node needs its directory shared, "
                "under the same path"
            )


@functools.cache
def software() -> tuple[tuple[str, str], ...]:
    """The versions of packages, and a digest of our code: what decides what a task computes."""
    return (*((name, _version(name)) for name in _PACKAGES), ("Lookalike's code", _code_digest()))


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(none)"


def _code_digest() -> str:
    root, digest = Path(lookalike.__file__).resolve().parents[1], hashlib.sha256()
    for folder in _FOLDERS:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(root)}\n".encode() + path.read_bytes())
    return digest.hexdigest()[:12]
