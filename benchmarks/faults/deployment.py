"""The processes that serve one index, each of which can be killed, stopped, cut off and started again.

Starts processes, sends signals, mounts a small disk.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from redis import Redis

from benchmarks.faults.proxy import Mode, set_mode
from benchmarks.meter import COMMAND
from lookalike.local import process_specs
from lookalike.local.probes import free_ports, is_serving, redis_answers
from lookalike.local.supervisor import Supervisor

PROXIED: Final = ("shard 0 replica 0", "redis", "model server")  # What a proxy can stand in front of.
READY_S = 180.0  # On a busy machine; the model server imports TensorFlow.
_DISK_MIB = 256
_PROXY = "benchmarks.faults.proxy"


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How many processes of each kind there are, and whether there are any."""

    shards: int = 2
    replicas: int = 2
    gateways: int = 2
    text_encoders: int = 1  # 0: no text queries.
    model_server: bool = True  # Else no photo queries.
    redis: bool = True  # Else each gateway caches in its own memory.
    small_disk: bool = True  # The first replica has one for its live directory, where this user may mount one.

    def replica_names(self, shard: int) -> Sequence[str]:
        return [f"shard {shard} replica {each}" for each in range(self.replicas)]

    def names(self) -> Sequence[str]:
        """The processes, in the order in which they are started."""
        shards = [name for shard in range(self.shards) for name in self.replica_names(shard)]
        encoders = [f"text encoder {each}" for each in range(self.text_encoders)]
        others = ["redis"] * self.redis + ["model server"] * self.model_server
        return [*others, *encoders, *shards, *(f"gateway {each}" for each in range(self.gateways))]


class Deployment:
    """The processes of a shape over the index at `folder`/index, with models in `folder`/models.

    scratch: for logs and live directories, which are new.
    flags: more of the gateways.
    """

    def __init__(
        self, folder: Path, scratch: Path, shape: Shape, processes: Supervisor, flags: Sequence[str] = ()
    ) -> None:
        self.shape, self.location, self._models = shape, folder / "index", folder / "models"
        self._scratch, self._processes, self._flags = scratch, processes, flags
        names = [*shape.names(), *(f"proxy {name}" for name in PROXIED)]
        self._ports = dict(zip(names, free_ports(len(names)), strict=True))
        self._is_proxied = False
        self._disk: Path | None = None  # The directory of a mounted disk.

    @property
    def address(self) -> str:
        """All gateways, for one client: it calls them in turn."""
        return "ipv4:" + ",".join(self.gateways())

    def gateways(self) -> Sequence[str]:
        return [self.address_of(f"gateway {each}") for each in range(self.shape.gateways)]

    def replicas(self) -> dict[str, int]:
        """The shard of each replica, by its address."""
        shards = range(self.shape.shards)
        return {self.address_of(name): shard for shard in shards for name in self.shape.replica_names(shard)}

    def address_of(self, name: str) -> str:
        return f"127.0.0.1:{self._ports[name]}"

    def start(self) -> None:
        self._mount_disk()
        for name in self.shape.names():
            self.start_one(name)
        self.wait_ready()

    def start_one(self, name: str) -> None:
        self._processes.start(name, self._command(name), ready=partial(self.is_ready, name))

    def wait_ready(self) -> None:
        self._processes.wait_ready(timeout_s=READY_S)

    def is_ready(self, name: str) -> bool:
        address = self.address_of(name)
        return redis_answers(address) if name == "redis" else is_serving(address)

    def kill(self, name: str) -> None:
        self._processes.kill(name)

    def terminate(self, name: str) -> None:
        """SIGTERM, and return at once: `wait_ended` before it is started again."""
        os.kill(self.pid(name), signal.SIGTERM)

    def wait_ended(self, name: str) -> None:
        """Wait until a process that was told to end has; one that does not in time is killed."""
        wait_until(lambda: _has_ended(self.pid(name)), f"{name} does not end")
        self._processes.kill(name)  # It is forgotten, so that its name can be used again.

    def suspend(self, name: str) -> None:
        os.killpg(self.pid(name), signal.SIGSTOP)

    def resume(self, name: str) -> None:
        os.killpg(self.pid(name), signal.SIGCONT)

    def pid(self, name: str) -> int:
        return self._processes.pids()[name]

    def redis(self) -> Redis:
        return Redis(port=self._ports["redis"])

    def use_proxies(self) -> None:
        """Start the gateways again with proxies in their way to one shard replica, Redis and the model server."""
        if self._is_proxied:
            return
        self._is_proxied = True
        for name in PROXIED:
            if name in self._ports:
                control = self._control(name)
                words = ["--port", self._ports[f"proxy {name}"], "--to", self._ports[name], "--control", control]
                command = [COMMAND[0], "-m", _PROXY, *map(str, words)]
                self._processes.start(f"proxy {name}", command, ready=control.exists)
        self.wait_ready()
        for number in range(self.shape.gateways):
            self.terminate(f"gateway {number}")
            self.wait_ended(f"gateway {number}")
            self.start_one(f"gateway {number}")
        self.wait_ready()

    def set_proxy(self, name: str, mode: Mode) -> None:
        set_mode(self._control(name), mode)

    def fill_disk(self) -> None:
        """Leave no room for the live directory of the first replica; without a disk of its own, none for its files."""
        if self._disk is None:
            limit_file_size(self.pid(PROXIED[0]), 4096)
            return
        with (self._disk / "ballast").open("wb") as file:
            while free_bytes := shutil.disk_usage(self._disk).free:
                with suppress(OSError):  # The shard has written something meanwhile.
                    os.posix_fallocate(file.fileno(), file.seek(0, os.SEEK_END), free_bytes)

    def empty_disk(self) -> None:
        if self._disk is None:
            limit_file_size(self.pid(PROXIED[0]), None)
        else:
            (self._disk / "ballast").unlink(missing_ok=True)

    def close(self) -> None:
        """Unmount the disk: at once from the tree, and for good when the processes have ended."""
        if self._disk is not None:
            subprocess.run(["umount", "--lazy", str(self._disk)], check=False)  # noqa: S603, S607  # no shell

    def _mount_disk(self) -> None:
        disk, mount = self._live_dir(PROXIED[0]), shutil.which("mount")
        disk.mkdir(parents=True)
        if not self.shape.small_disk:
            return
        command = [mount or "mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(disk)]
        if mount and subprocess.run(command, capture_output=True, check=False).returncode == 0:  # noqa: S603  # no shell
            self._disk = disk

    def _live_dir(self, name: str) -> Path:
        return self._scratch / "live" / name.replace(" ", "-")

    def _control(self, name: str) -> Path:
        return self._scratch / f"{name.replace(' ', '-')}.control"

    def _reached(self, name: str) -> str:
        """Where gateways find a process."""
        return self.address_of(f"proxy {name}" if self._is_proxied and name in PROXIED else name)

    def _command(self, name: str) -> Sequence[str]:
        port = ["--port", str(self._ports[name])]
        follow = ["--location", str(self.location), "--poll-s", "1", "--lease-s", "5"]
        match name.split():
            case ["redis"]:
                executable = process_specs.redis_executable()
                assert executable is not None, "no redis-server"  # noqa: S101  # a script of its own
                return process_specs.redis(executable, self._scratch, self._ports[name]).command
            case ["model", "server"]:
                return [*COMMAND, "serve", "model-server", "--models", str(self._models), *port]
            case ["text", "encoder", _]:
                return [*COMMAND, "serve", "text-encoder", *follow, *port]
            case ["shard", shard, "replica", _]:
                live = ["--shard", shard, "--live-dir", str(self._live_dir(name)), "--threads", "1"]
                names = self.shape.replica_names(int(shard))
                peers = ["--peers", ",".join(map(self.address_of, names))] if len(names) > 1 else []
                return [*COMMAND, "serve", "shard", *follow, *live, *peers, *port]
        return [*COMMAND, "serve", "gateway", *self._servers(), *self._flags, *port]

    def _servers(self) -> Sequence[str]:
        """The flags of a gateway that name what it calls."""
        shape = self.shape
        names = [shape.replica_names(shard) for shard in range(shape.shards)]
        servers = ["--shards", ",".join("+".join(map(self._reached, replicas)) for replicas in names)]
        if shape.text_encoders:
            texts = [self.address_of(f"text encoder {each}") for each in range(shape.text_encoders)]
            servers += ["--text-encoder", ",".join(texts)]
        if shape.model_server:
            servers += ["--model-server", self._reached("model server")]
        return [*servers, "--redis", f"redis://{self._reached('redis')}"] if shape.redis else servers


def limit_file_size(pid: int, limit_bytes: int | None) -> None:
    """Bound the files that a process may write, as a full disk does, or bound them no more."""
    import resource

    resource.prlimit(pid, resource.RLIMIT_FSIZE, (limit_bytes or resource.RLIM_INFINITY, resource.RLIM_INFINITY))


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = READY_S) -> None:
    give_up_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > give_up_s:
            raise TimeoutError(what)
        time.sleep(0.05)


def _has_ended(pid: int) -> bool:
    """Whether the process, which its parent has not waited for yet, is a zombie."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
