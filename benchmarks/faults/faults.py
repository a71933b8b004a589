"""The table of faults: how each is brought about and healed, and what it takes away that nothing else can stand in for.

Sends signals, talks to proxies and to Redis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Final

from benchmarks.faults.calls import GATEWAY, MODEL_SERVER, TEXT_ENCODER, disk_of, name_of
from benchmarks.faults.deployment import PROXIED, Deployment, Shape
from benchmarks.faults.proxy import Mode

Act = Callable[[Deployment], object]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """A fault of one process.

    takes:            what the process does for calls, as `Call.needs` names it; empty: no call needs it
    inject, heal:     return when it is so; a process that is started again may not be ready yet
    loses_in_flight:  the calls that the process is answering fail with it, and no other process can know their answers
    is_proxied:       gateways reach the process through a proxy
    """

    name: str
    takes: str
    inject: Act
    heal: Act
    loses_in_flight: bool = False
    is_proxied: bool = False


def faults(shape: Shape, publish: Act, take_back: Act) -> Sequence[Fault]:
    """Every fault that can befall a deployment of this shape; the proxied ones last, as gateways are started for them.

    publish, take_back: let another version serve, and the first one again
    """
    processes = {"shard": PROXIED[0], "gateway": "gateway 0"}
    processes |= {"text-encoder": "text encoder 0"} if shape.text_encoders else {}
    processes |= {"model-server": "model server"} if shape.model_server else {}
    processes |= {"redis": "redis"} if shape.redis else {}
    found = [each for kind, name in processes.items() for each in _signals(kind, name)]
    found.append(
        Fault(name="full-disk-shard", takes=disk_of(0), inject=Deployment.fill_disk, heal=Deployment.empty_disk)
    )
    if shape.redis:
        found.append(Fault(name="flush-redis", takes="", inject=_flush, heal=lambda _: None))
        found.append(Fault(name="full-redis", takes="", inject=_limit_memory, heal=_allow_memory))
    found.append(Fault(name="publish", takes="", inject=publish, heal=take_back))
    return [*found, *(each for kind, name in processes.items() if name in PROXIED for each in _networks(kind, name))]


def chosen(every: Sequence[Fault], patterns: Sequence[str]) -> Sequence[Fault]:
    """The faults whose names match any pattern, such as kill-*. Raises ValueError for one that matches none."""
    for pattern in patterns:
        if not any(fnmatchcase(each.name, pattern) for each in every):
            raise ValueError(f"{pattern}: none of {', '.join(each.name for each in every)}")
    return [each for each in every if any(fnmatchcase(each.name, pattern) for pattern in patterns)]


def only_ones(shape: Shape) -> frozenset[str]:
    """What there is only one process for, by the names of `Call.needs`."""
    counts = {GATEWAY: shape.gateways, TEXT_ENCODER: shape.text_encoders, MODEL_SERVER: 1}
    counts |= {name(shard): shape.replicas for shard in range(shape.shards) for name in (name_of, disk_of)}
    return frozenset(name for name, count in counts.items() if count == 1)


_TAKES: Final[Mapping[str, str]] = {
    "shard": name_of(0),
    "gateway": GATEWAY,
    "text-encoder": TEXT_ENCODER,
    "model-server": MODEL_SERVER,
    "redis": "",
}


def _signals(kind: str, name: str) -> Sequence[Fault]:
    """kill -9, SIGSTOP and SIGTERM of a process."""

    def restart(deployment: Deployment) -> None:
        deployment.start_one(name)

    def restart_ended(deployment: Deployment) -> None:
        deployment.wait_ended(name)
        deployment.start_one(name)

    loses, takes = kind == "gateway", _TAKES[kind]
    return [
        Fault(
            name=f"kill-{kind}",
            takes=takes,
            inject=lambda deployment: deployment.kill(name),
            heal=restart,
            loses_in_flight=loses,
        ),
        Fault(
            name=f"stop-{kind}",
            takes=takes,
            inject=lambda deployment: deployment.suspend(name),
            heal=lambda deployment: deployment.resume(name),
            loses_in_flight=loses,
        ),
        Fault(
            name=f"term-{kind}", takes=takes, inject=lambda deployment: deployment.terminate(name), heal=restart_ended
        ),
    ]


def _networks(kind: str, name: str) -> Sequence[Fault]:
    """Added latency, a black hole and resets between gateways and a process."""

    def set_mode(mode: Mode, deployment: Deployment) -> None:
        deployment.set_proxy(name, mode)

    modes = {"latency": Mode.DELAY, "blackhole": Mode.DROP, "reset": Mode.RESET}
    return [
        Fault(
            name=f"{what}-{kind}",
            takes=_TAKES[kind],
            inject=partial(set_mode, mode),
            heal=partial(set_mode, Mode.PASS),
            is_proxied=True,
        )
        for what, mode in modes.items()
    ]


def _flush(deployment: Deployment) -> None:
    with deployment.redis() as redis:
        redis.flushall()


def _limit_memory(deployment: Deployment) -> None:
    """Less than an empty Redis takes: every write is refused."""
    with deployment.redis() as redis:
        redis.config_set("maxmemory-policy", "noeviction")
        redis.config_set("maxmemory", "1mb")


def _allow_memory(deployment: Deployment) -> None:
    with deployment.redis() as redis:
        redis.config_set("maxmemory", "64mb")
        redis.config_set("maxmemory-policy", "allkeys-lru")
