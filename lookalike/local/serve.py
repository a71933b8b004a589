"""`lookalike serve local`: an index served on this machine by one process, without encoders."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lookalike.client import Client
from lookalike.errors import OperatorError
from lookalike.local import location, probes, process_specs
from lookalike.local.location import ServedIndex
from lookalike.local.supervisor import Supervisor

EXAMPLES = """\
examples:
  lookalike index build --vectors base.npy --space image index
  lookalike serve local index --port 50051 --metrics-port 9090
  lookalike serve local index --live-dir changes      (accepts `lookalike catalog upsert` and `remove`)

Queries are product ids and vectors. Photos and texts need encoders: see `lookalike demo`. When CURRENT names another
version, that one is served within seconds, and no call fails.
"""
READY_TIMEOUT_S = 600.0  # A node reads all its files once, for their checksums: enough for 60 GB at 100 MB/s.


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="lookalike serve local",
        description="Serve an index on this machine. Ctrl-C stops it.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("location", type=Path, metavar="INDEX", help="the index, made by `index build` or `update`")
    parser.add_argument("--port", type=int, default=50051, help="gRPC port (default: %(default)s)")
    parser.add_argument("--metrics-port", type=int, default=0, help="port of the Prometheus page; 0: none")
    parser.add_argument("--live-dir", type=Path, help="directory that keeps live updates; without it they are refused")
    options = parser.parse_args(argv)
    live_dir = options.live_dir.resolve() if options.live_dir else None
    index = options.location.resolve()
    served = location.read_current(index)
    for port in filter(None, (options.port, options.metrics_port)):
        if not probes.is_port_free(port):
            raise OperatorError(f"port {port} of 127.0.0.1 is already in use")
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as logs,
        Supervisor(Path(logs), environ, directory=process_specs.ROOT) as processes,
    ):
        _serve(processes, index, served, live_dir, port=options.port, metrics_port=options.metrics_port)
    return 0


def _serve(
    processes: Supervisor, index: Path, served: ServedIndex, live_dir: Path | None, *, port: int, metrics_port: int
) -> None:
    """Serve until Ctrl-C, SIGTERM, or the end of the node (raises as `Supervisor.check`)."""
    node = process_specs.node(index, port, live_dir=live_dir, metrics_port=metrics_port)
    processes.start(node.name, node.command, ready=node.ready)
    processes.wait_ready(timeout_s=READY_TIMEOUT_S)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"Version {served.version} is served at {node.address}. Try:")
    for line in example_commands(node.address, served.spaces, metrics_port):
        console.print(f"  {line}")
    console.print("Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        processes.watch(warn=lambda line: print(line, file=sys.stderr))


def example_commands(address: str, spaces: Sequence[str], metrics_port: int) -> list[str]:
    """Command lines that query the gateway at `address`, ready to paste: they name one of its products.

    They name the space, too, if there is only one.
    """
    with Client(address) as client:
        product_id = next((product.id for product in client.list(limit=1)), "ID")
    request: dict[str, object] = {"examples": [{"product_id": product_id}], "limit": 5}
    search = f"lookalike search --address {address} --product {shlex.quote(product_id)}"
    if len(spaces) == 1:
        request["space"] = f"SPACE_{spaces[0].upper()}"
        search += f" --space {spaces[0]}"
    body = shlex.quote(json.dumps(request, ensure_ascii=False))
    lines = [search, f"grpcurl -plaintext -d {body} {address} lookalike.v1.SimilarProducts/Search"]
    return [*lines, f"curl http://127.0.0.1:{metrics_port}/metrics"] if metrics_port else lines
