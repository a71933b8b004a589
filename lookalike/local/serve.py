"""`lookalike serve local`: an index served on this machine, by one process or by replicas, without encoders."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from rich.console import Console

from lookalike import channels
from lookalike.client import Client, Tls
from lookalike.errors import OperatorError
from lookalike.local import location, probes, process_specs
from lookalike.local.location import ServedIndex
from lookalike.local.process_specs import ProcessSpec
from lookalike.local.supervisor import Supervisor

EXAMPLES = """\
examples:
  lookalike index build --vectors base.npy --space image index
  lookalike serve local index --port 50051 --metrics-port 9090
  lookalike serve local index --live-dir changes      (accepts `lookalike catalog upsert` and `remove`)
  lookalike serve local index --live-dir changes --replicas 2
  lookalike certs dev certs && lookalike serve local index --certs certs

Queries are product ids and vectors. Photos and texts need encoders: see `lookalike demo`. When CURRENT names another
version, that one is served within seconds, and no call fails.

With --replicas, a gateway and so many processes for each shard run in place of one process. If one of them dies, the
others answer; it is started again, and takes from them the changes that it missed. A version of another number of
shards needs a new start then.
"""
MAX_REPLICAS = 8
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
    parser.add_argument(
        "--replicas",
        type=int,
        default=0,
        metavar="N",
        help="processes for each shard, beside a gateway; 0: one for all",
    )
    parser.add_argument("--certs", type=Path, metavar="DIR", help="serve by TLS, with what `certs dev` wrote to DIR")
    options = parser.parse_args(argv)
    if not 0 <= options.replicas <= MAX_REPLICAS:
        parser.error(f"--replicas {options.replicas}: not in 0..{MAX_REPLICAS}")
    live_dir = options.live_dir.resolve() if options.live_dir else None
    certs = options.certs.resolve() if options.certs else None
    if certs:
        channels.use_tls(_client_of(certs))
    index = options.location.resolve()
    served = location.read_current(index)
    for port in filter(None, (options.port, options.metrics_port)):
        if not probes.is_port_free(port):
            raise OperatorError(f"port {port} of 127.0.0.1 is already in use")
    with (
        tempfile.TemporaryDirectory(prefix="lookalike-") as logs,
        Supervisor(Path(logs), environ, directory=process_specs.ROOT) as processes,
    ):
        if options.replicas:
            shards = start_replicas(
                processes, index, served.shards, options.replicas, live_dir, exclude=[options.port], certs=certs
            )
            entrance = process_specs.gateway(shards, options.port, metrics_port=options.metrics_port, certs=certs)
        else:
            entrance = process_specs.node(
                index, options.port, live_dir=live_dir, metrics_port=options.metrics_port, certs=certs
            )
        _serve(processes, entrance, served, options.metrics_port)
    return 0


def start_replicas(
    processes: Supervisor,
    index: Path,
    shards: int,
    count: int,
    live_dir: Path | None,
    *,
    exclude: Collection[int] = (),
    certs: Path | None = None,
) -> list[list[ProcessSpec]]:
    """Start replicas of every shard of an index, each of which is started again when it dies; by shard."""
    ports = probes.free_ports(shards * count, exclude=exclude)
    groups = process_specs.replicas(index, shards, count, ports, live_dir=live_dir, certs=certs)
    for group in groups:
        for each in group:
            processes.start(each.name, each.command, ready=each.ready, restart=True)
    return groups


def _serve(processes: Supervisor, entrance: ProcessSpec, served: ServedIndex, metrics_port: int) -> None:
    """Serve until Ctrl-C, SIGTERM, or the end of a process that is not started again (raises as `Supervisor.check`).

    entrance: what callers call, a node or a gateway.
    """
    processes.start(entrance.name, entrance.command, ready=entrance.ready)
    processes.wait_ready(timeout_s=READY_TIMEOUT_S)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    console.print(f"Version {served.version} is served at {entrance.address}. Try:")
    for line in example_commands(entrance.address, served.spaces, metrics_port):
        console.print(f"  {line}")
    console.print("Ctrl-C stops it.")
    with contextlib.suppress(KeyboardInterrupt):
        processes.watch(warn=lambda line: print(line, file=sys.stderr))


def _client_of(certs: Path) -> Tls:
    """What a caller shows, which the readiness probes and the examples do, too."""
    own = certs / "client"
    return Tls(ca=str(own / "ca.crt"), cert=str(own / "tls.crt"), key=str(own / "tls.key"))


def example_commands(address: str, spaces: Sequence[str], metrics_port: int) -> list[str]:
    """Command lines that query the gateway at `address`, ready to paste: they name one of its products.

    They name the space, too, if there is only one.
    """
    tls = channels.process_tls()
    with Client(address) as client:
        product_id = next((product.id for product in client.list(limit=1)), "ID")
    request: dict[str, object] = {"examples": [{"product_id": product_id}], "limit": 5}
    search = f"lookalike search --address {address} --product {shlex.quote(product_id)}"
    if len(spaces) == 1:
        request["space"] = f"SPACE_{spaces[0].upper()}"
        search += f" --space {spaces[0]}"
    body = shlex.quote(json.dumps(request, ensure_ascii=False))
    if tls is None:
        grpcurl, curl = "grpcurl -plaintext", "curl http"
    else:
        search += f" --tls-ca {tls.ca} --tls-cert {tls.cert} --tls-key {tls.key}"
        grpcurl = f"grpcurl -cacert {tls.ca} -cert {tls.cert} -key {tls.key}"
        curl = f"curl --cacert {tls.ca} --cert {tls.cert} --key {tls.key} https"
    lines = [search, f"{grpcurl} -d {body} {address} lookalike.v1.SimilarProducts/Search"]
    return [*lines, f"{curl}://127.0.0.1:{metrics_port}/metrics"] if metrics_port else lines
