"""Starts real Ray clusters of several nodes on this machine, and kills nodes. Starts processes."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPOSITORY

# Of each node, in shared memory: Ray's minimum is 75 MB.
_OBJECT_STORE_BYTES = 80 << 20


class RayCluster:
    """A head without cores for tasks, and two nodes of one core."""

    def __init__(self, cluster: Any, nodes: list[Any]) -> None:
        self._nodes = nodes
        self.address: str = cluster.address

    def process_ids(self, node: int, running: str) -> list[int]:
        """The processes of a node that run a task of this name."""
        return [process for process in self._family(node) if _command(process) == f"ray::{running}"]

    def kill_node(self, node: int) -> None:
        """Kill every process of a node with SIGKILL, as if its machine had lost power."""
        for process in self._family(node):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)

    def _family(self, node: int) -> list[int]:
        """The processes that a node consists of: those that it started, and theirs."""
        started = [info.process.pid for infos in self._nodes[node].all_processes.values() for info in infos]
        children = _children()
        family: list[int] = []
        while started:
            family.append(process := started.pop())
            started += children.get(process, [])
        return family


@contextmanager
def ray_cluster() -> Iterator[RayCluster]:
    """Start a cluster whose nodes find our code. Skips the test if Ray is not installed."""
    pytest.importorskip("ray", reason="Ray is not installed (dependency group ray)")
    cluster_utils: Any = import_module("ray.cluster_utils")
    # Processes start slowly where other tests keep all cores busy.
    waits = {
        "RAY_gcs_server_port_wait_time_s": "300",
        "RAY_raylet_start_wait_time_s": "300",
        "RAY_health_check_failure_threshold": "30",
    }
    variables = {"PYTHONPATH": str(REPOSITORY), "RAY_USAGE_STATS_ENABLED": "0", **waits}
    with (
        pytest.MonkeyPatch.context() as patch,
        tempfile.TemporaryDirectory(prefix="ray") as directory,  # Unix sockets in it need a short path.
    ):
        for name, value in variables.items():
            patch.setenv(name, value)
        common = {"object_store_memory": _OBJECT_STORE_BYTES, "include_log_monitor": False, "temp_dir": directory}
        head = {"num_cpus": 0, "no_monitor": True, "include_dashboard": False, **common}
        # Ray writes the cluster's address into this directory and makes it only where it keeps a node's files there.
        Path(import_module("ray._common.utils").get_default_ray_temp_dir()).mkdir(exist_ok=True)
        cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
        try:
            yield RayCluster(cluster, [cluster.add_node(num_cpus=1, **common) for _ in range(2)])
        finally:
            cluster.shutdown()


def _children() -> dict[int, list[int]]:
    """The processes of this machine, by the process that started them."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(stat.parent.name))
    return children


def _command(process: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{process}/cmdline").read_text().strip("\0 ")
    return ""
