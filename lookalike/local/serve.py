"""`lookalike serve local`: the shards and a gateway of an index on this machine, without encoders."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lookalike.client import Client
from lookalike.errors import OperatorError
from lookalike.local import location, probes, process_specs
from lookalike.local.location import Version
from lookalike.local.supervisor import Supervisor

EXAMPLES = """\
examples:
  lookalike index build --vectors base.npy --space image --shards 2 index
  lookalike serve local index --port 50051 --metrics-port 9090
  lookalike serve local index --live-dir changes      (takes `lookalike catalog upsert` and `remove`)

Queries are product ids and vectors: photos and texts need encoders, as in `lookalike demo`. A version that comes to be
CURRENT is served within seconds, without a failed call, if it has as many shards.
"""
READY_S = 600.0  # A shard reads its files whole once, for their checksums: time for 60 GB at 100 MB/s.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike serve local",
        description="Serve an index on this machine: a process for each shard, and a gateway. Ctrl-C stops them.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", type=Path, metavar="INDEX", help="as `index build` or `update` made it")
    parser.add_argument("--port", type=int, default=50051, help="of the gateway (default: %(default)s)")
    parser.add_argument("--metrics-port", type=int, default=0, help="of the gateway's Prometheus page; 0: none")
    parser.add_argument("--live-dir", type=Path, help="directory that keeps changes; without it none are taken")
    asked = parser.parse_args(argv)
    live_dir = asked.live_dir.resolve() if asked.live_dir else None
    index = asked.location.resolve()
    version = location.current(index)
    for port in filter(None, (asked.port, asked.metrics_port)):
        if not probes.is_port_free(port):
            raise OperatorError(f"port {port} of 127.0.0.1 is taken")
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as logs,
        Supervisor(Path(logs), environ, directory=process_specs.ROOT) as processes,
    ):
        _serve(processes, index, version, live_dir, port=asked.port, metrics_port=asked.metrics_port)
    return 0


def _serve(
    processes: Supervisor, index: Path, version: Version, live_dir: Path | None, *, port: int, metrics_port: int
) -> None:
    """Until Ctrl-C, SIGTERM, or the death of a process (raises as `Supervisor.check`)."""
    ports = probes.free_ports(version.shards, exclude=(port, metrics_port))
    shards = [process_specs.shard(index, number, port_, live_dir=live_dir) for number, port_ in enumerate(ports)]
    gateway = process_specs.gateway(shards, port, metrics_port=metrics_port)
    for role in (*shards, gateway):
        processes.start(role.name, role.command, ready=role.ready)
    processes.wait_ready(timeout_s=READY_S)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"Version {version.name} is served at {gateway.address} by {version.shards} shards. Ask it:")
    for line in how_to_ask(gateway.address, version.spaces, metrics_port):
        console.print(f"  {line}")
    console.print("Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        processes.watch()


def how_to_ask(address: str, spaces: Sequence[str], metrics_port: int) -> list[str]:
    """Command lines that work as they stand: they name a product, and the space where there is but one."""
    with Client(address) as client:
        product_id = next((product.id for product in client.list(limit=1)), "ID")
    question: dict[str, object] = {"examples": [{"product_id": product_id}], "limit": 5}
    search = f"lookalike search --address {address} --product {shlex.quote(product_id)}"
    if len(spaces) == 1:
        question["space"] = f"SPACE_{spaces[0].upper()}"
        search += f" --space {spaces[0]}"
    asked = shlex.quote(json.dumps(question, ensure_ascii=False))
    lines = [search, f"grpcurl -plaintext -d {asked} {address} lookalike.v1.SimilarProducts/Search"]
    return [*lines, f"curl http://127.0.0.1:{metrics_port}/metrics"] if metrics_port else lines
