"""What a system under test does: build its index, start, make its searches. Starts processes, uses the file system.

The systems' modules also run in the systems' own environments, which lack this project's packages: at their top, and at
that of this one, nothing but the standard library and NumPy is imported.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np

from benchmarks.serving.wire import Wire
from lookalike.vectors import F32

if TYPE_CHECKING:
    from lookalike.local.supervisor import Supervisor

VECTORS, QUERIES, TRUTH = "vectors.npy", "queries.npy", "truth.npy"
LINKS, EF_CONSTRUCTION = 16, 200  # Of a peer's HNSW graph: 32 links at its bottom layer, as many as FAISS' HNSW16.
READY_S = 180.0


class Skipped(Exception):
    """The system cannot run here; the message says why."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Packages at fixed versions that one or several systems need, in a virtual environment of their own."""

    name: str
    packages: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Site:
    """Where one system keeps its files and how its processes run.

    data:         the folder of the vectors, the queries and their true neighbours
    folder:       the system's own; kept from one run to the next
    environment:  its packages, installed in a folder of `environments`
    processes:    stops what the system starts
    pin:          what precedes a command of its servers, to keep them on one core; empty while an index is built
    """

    data: Path
    folder: Path
    environments: Path
    environment: Environment | None
    processes: Supervisor
    pin: tuple[str, ...]

    @property
    def python(self) -> str:
        return sys.executable if self.environment is None else str(self._environment_folder / "bin" / "python")

    def executable(self, name: str) -> str:
        return str(self._environment_folder / "bin" / name)

    def package_folder(self, name: str) -> Path:
        """The folder of an installed package."""
        (folder,) = self._environment_folder.glob(f"lib/python*/site-packages/{name}")
        return folder

    @property
    def _environment_folder(self) -> Path:
        assert self.environment is not None  # noqa: S101
        digest = hashlib.sha256("\n".join(self.environment.packages).encode()).hexdigest()[:12]
        return self.environments / f"{self.environment.name}-{digest}"

    def install(self) -> None:
        """Make the system's environment unless it exists. Raises Skipped if a package cannot be had."""
        if self.environment is None or self._environment_folder.exists():
            return
        unfinished = self._environment_folder.with_suffix(".unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        uv = [sys.executable, "-m", "uv"]
        python = str(unfinished / "bin" / "python")
        for command in (
            [*uv, "venv", "--quiet", "--relocatable", "--python", sys.executable, str(unfinished)],
            [*uv, "pip", "install", "--quiet", "--python", python, *self.environment.packages],
        ):
            finished = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # no shell
            if finished.returncode:
                shutil.rmtree(unfinished, ignore_errors=True)
                reason = (finished.stderr.strip().splitlines() or ["no message"])[-1]
                raise Skipped(f"{' '.join(self.environment.packages)} cannot be installed: {reason.strip()}")
        unfinished.rename(self._environment_folder)

    def run(self, name: str, command: Sequence[str]) -> str:
        """Run a command of the system's to its end, on any core; returns its output."""
        return self.processes.run(name, command)

    def start(self, name: str, command: Sequence[str], ready: Callable[[], bool]) -> None:
        """Start a server process and wait until it is ready."""
        self.processes.start(name, [*self.pin, *command], ready=ready)
        self.processes.wait_ready(timeout_s=READY_S)

    def module(self, name: str, *arguments: object) -> list[str]:
        """The command that runs a module of this package in the system's environment."""
        return [self.python, "-m", f"benchmarks.serving.{name}", *map(str, arguments)]


@dataclass(frozen=True, kw_only=True)
class Searches:
    """Prepared calls, of `queries_per_call` queries each, and how to read the rows that an answer names."""

    wire: Wire
    requests: Sequence[bytes]
    rows: Callable[[bytes], Sequence[Sequence[int]]]
    queries_per_call: int = 1


class System(Protocol):
    """A system under test.

    name:         of its row
    label:        what it is, its version included
    environment:  packages that it needs; None: those of this project do
    index:        the folder of its index: systems that share it build it once
    knob:         its parameter for more recall, and rising values of it; none: it sets itself
    """

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def environment(self) -> Environment | None: ...
    @property
    def index(self) -> str: ...
    @property
    def knob(self) -> str: ...
    @property
    def knob_values(self) -> Sequence[int]: ...

    def build(self, site: Site) -> None:
        """Build the index in the site's folder."""


@runtime_checkable
class Server(System, Protocol):
    """A system that answers over a network connection."""

    def start(self, site: Site) -> str:
        """Start its processes over the built index; returns `host:port`."""

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        """Set the server to this value of its knob if it keeps one, and prepare a search for each query."""


class LoadedServer(Server, Protocol):
    """A server that is given vectors while it runs, so one that somebody else runs can be measured, too."""

    def load(self, site: Site, address: str) -> None:
        """Make it hold the vectors, and wait until they are indexed."""


class Embedded(System, Protocol):
    """A library that searches in the caller's process: the floor under any server."""

    def command(self, site: Site) -> list[str]:
        """The program that measures itself, see `embedded.py`; it takes --recall and --seconds besides."""


@dataclass(frozen=True)
class Elsewhere:
    """A server that the reader runs: it is given the vectors, once, and measured. Its cores are the reader's choice."""

    server: LoadedServer
    address: str

    @property
    def name(self) -> str:
        return f"{self.server.name} at {self.address}"

    @property
    def label(self) -> str:
        return f"{self.server.name}, run by the reader at {self.address}"

    @property
    def environment(self) -> Environment | None:
        return self.server.environment

    @property
    def index(self) -> str:
        return f"{self.server.index}-{self.address.replace(':', '-')}"

    @property
    def knob(self) -> str:
        return self.server.knob

    @property
    def knob_values(self) -> Sequence[int]:
        return self.server.knob_values

    def build(self, site: Site) -> None:
        self.server.load(site, self.address)

    def start(self, site: Site) -> str:
        return self.address

    def searches(self, site: Site, address: str, queries: F32, knob: int) -> Searches:
        return self.server.searches(site, address, queries, knob)


def build_loaded(server: LoadedServer, site: Site) -> None:
    """Build the index of a server by loading it."""
    server.load(site, server.start(site))


def one_each(rows: Callable[[bytes], Sequence[int]]) -> Callable[[bytes], Sequence[Sequence[int]]]:
    """For a server that answers one query in a call."""
    return lambda answer: [rows(answer)]


def load_array(folder: Path, name: str) -> F32:
    array: F32 = np.load(folder / name, mmap_mode="r")
    return array


def answers_http(url: str) -> bool:
    """Whether an HTTP server answers a GET with 200."""
    import urllib.request

    try:
        with urllib.request.urlopen(url, timeout=1) as response:  # noqa: S310  # of a server started here
            return bool(response.status == 200)
    except OSError:
        return False


def accepts(address: str) -> Callable[[], bool]:
    from lookalike.local.probes import accepts_connections

    return partial(accepts_connections, address)


def free_address() -> str:
    from lookalike.local.probes import free_ports

    (port,) = free_ports(1)
    return f"127.0.0.1:{port}"


def port_of(address: str) -> str:
    return address.rpartition(":")[2]
