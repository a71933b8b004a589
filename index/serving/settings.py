"""The settings of a process that serves shards. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple

from lookalike.errors import BadSettings
from lookalike.releases.settings import FollowSettings
from lookalike.runtime.settings import setting
from lookalike.spaces import VECTOR_SPACES


@dataclass(frozen=True, kw_only=True)
class IndexSettings(FollowSettings):
    """How the shards of an index are loaded, searched and updated."""

    expect: tuple[str, ...] = setting(
        (), "expected encoders as space=fingerprint; a version with vectors of others is refused; empty: any"
    )
    threads: int = setting(
        0, "number of parallel searches, one core each; 0: as many as cores", at_least=0, at_most=256
    )
    max_waiting: int = setting(256, "calls that may wait for a thread; further ones are refused at once", at_least=0)
    deep_threads: int = setting(
        0,
        "threads for searches that are much more work than others, exact ones apart; "
        "0: a quarter of `threads`, but one at least",
        at_least=0,
        at_most=256,
    )
    max_costly: int = setting(
        256,
        "such searches in progress, and exact ones in progress; further ones are refused at once, as are those that "
        "would be late",
        at_least=1,
        at_most=1024,
    )
    device: str = setting(
        "cpu", "cpu, cuda:<number>, or auto: the first GPU if there is one, for the indexes that fit into its memory"
    )
    device_mib: int = setting(
        0,
        "limit of GPU memory, for two versions during a rollout; a version that needs more is refused; "
        "0: all that is free",
        at_least=0,
    )
    live_dir: Path | None = setting(None, "directory for updates, on a disk of this shard; empty: it takes no updates")  # noqa: RUF009  # as above
    delta_rows: int = setting(
        16384,
        "changed products kept in memory, which each query is compared with one by one; they are compacted at an "
        "eighth as many; beyond it updates wait or are refused",
        at_least=2,
        at_most=1 << 20,
    )
    max_changes: int = setting(
        1_000_000, "limit of products changed since the version was built; beyond it updates are refused", at_least=1
    )
    slow_query_s: float = setting(
        0.0,
        "time from which batches of searches are logged with their plans, at most ten a second; 0: none",
        at_least=0,
    )
    max_updates_waiting: int = setting(
        8192, "updates that may wait for a write; further ones are refused at once", at_least=1
    )


class PeerSettings(NamedTuple):
    """Where the replicas of a shard are, as ShardSettings has it."""

    addresses: Sequence[str] = ()
    wait_s: float = 0.0


NO_PEERS = PeerSettings()


@dataclass(frozen=True, kw_only=True)
class ShardSettings(IndexSettings):
    """A process that serves one shard."""

    PREFIX: ClassVar[str] = "LOOKALIKE_SHARD_"

    shard: int = setting(-1, "number of this shard, from 0; -1: the number at the end of pod-name", at_least=-1)
    pod_name: str = setting("", "name of the StatefulSet's pod; its last number is the shard's when shard is -1")
    shards: int = setting(
        0,
        "number of shards, where there are several pods for each: pod n serves shard n modulo it; 0: shard n",
        at_least=0,
    )
    peers: tuple[str, ...] = setting(
        (),
        "addresses of the replicas of this shard, host:port, from which it takes the changes that it lacks; a name may "
        "have several addresses, its own may be among them, and those of other shards; needs live-dir; empty: none",
    )
    peer_wait_s: float = setting(
        10.0, "time after the start in which a peer may answer; then it goes into service without", at_least=0
    )

    @property
    def peer_settings(self) -> PeerSettings:
        return PeerSettings(self.peers, self.peer_wait_s)


def shard_number(settings: ShardSettings) -> int:
    """Which shard to serve. Raises BadSettings."""
    if settings.shard >= 0:
        return settings.shard
    if (number := re.search(r"(?:^|-)(\d+)$", settings.pod_name)) is None:
        raise BadSettings(
            f"no shard number: set --shard, or a --pod-name that ends in a number (it is {settings.pod_name!r})"
        )
    return int(number[1]) % settings.shards if settings.shards else int(number[1])


def check_peers(settings: ShardSettings) -> None:
    """Raises BadSettings where the peers cannot be asked."""
    if settings.peers and settings.live_dir is None:
        raise BadSettings(
            "--peers needs --live-dir: without it a shard takes no updates, and has none to take from peers"
        )
    for address in settings.peers:
        host, _, port = address.rpartition(":")
        if not host or not port.isdecimal():
            raise BadSettings(f"--peers {','.join(settings.peers)}: {address!r} is not host:port")


def parse_expected_encoders(expect: Sequence[str]) -> dict[str, str]:
    """The expected encoder fingerprint of each space. Raises BadSettings."""
    pairs = [pair.partition("=") for pair in expect]
    for space, _, fingerprint in pairs:
        if space not in VECTOR_SPACES or not fingerprint:
            raise BadSettings(
                f"--expect {','.join(expect)}: expected space=fingerprint, with a space of {', '.join(VECTOR_SPACES)}"
            )
    return {space: fingerprint for space, _, fingerprint in pairs}
