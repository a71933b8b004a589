"""What request ids and traces cost a cache hit, against an older commit without them.

1. The way of a call that threads answer at once through the native server, without HTTP/2: the best of many repeats.
2. CPU of a gateway per cache hit in memory, through both gRPC servers: each of the trees in turn, `--rounds` times; the
   median of the rounds' ratios.

    git worktree add /tmp/before d1046ab
    python -m benchmarks.tracing --before /tmp/before [--calls 4000] [--rounds 5]
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.cache_hits import QUERIES, build_index, cache_hit_load
from benchmarks.meter import COMMAND, write
from lookalike.local.probes import free_ports, is_serving
from lookalike.local.supervisor import Supervisor

_HERE = Path(__file__).parents[1]
# Takes a call whose answer is there at once, of each tree with the same code.
_TAKE = """
import sys, timeit
import lookalike.runtime.native_server as native
from lookalike.runtime.methods import Method, ThreadedUnary
class Front:
    def respond(self, *_): pass
server = native.NativeServer([Method("/a.B/C", ThreadedUnary(lambda *_: b"x"), None, False, False)], None)
server._front = Front()
if sys.argv[1] == "sampled":
    from lookalike.runtime import tracing
    tracing.start(lambda span: None, 1.0)
metadata = [("user-agent", "grpc-python"), ("te", "trailers"), ("content-type", "application/grpc")]
event = (native.EVENT_CANCEL + 1, 5, 0, b"q" * 1000, None, (metadata, "ipv4:127.0.0.1:5000", 5.0))
print(min(timeit.repeat(lambda: server._take(event), number=500, repeat=400)) / 500 * 1e6)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, help="a work tree of the older commit")
    parser.add_argument("--calls", type=int, default=4_000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    trees = {"before": options.before.resolve(), "after": _HERE}
    take = [
        {"tree": name, "traces": traces, "us": round(min(take_us(trees[name], traces) for _ in range(3)), 3)}
        for name, traces in (("before", "off"), ("after", "off"), ("after", "sampled"))
    ]
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as folder:
        hits = measure(Path(folder), trees, options.calls, options.rounds)
    caveats = "closed loop, 16 in flight; client and others share the two cores; ratios are of neighbouring runs"
    print(write("tracing", {"take": take, "hits": hits, "caveats": caveats}))


def take_us(tree: Path, traces: str) -> float:
    """µs from the event of a call to its answer."""
    command = [sys.executable, "-c", _TAKE, traces]
    return float(subprocess.run(command, cwd=tree, env=_environ(tree), check=True, capture_output=True).stdout)  # noqa: S603


def measure(folder: Path, trees: dict[str, Path], calls: int, rounds: int) -> list[dict[str, Any]]:
    requests = build_index(folder / "index", 2_000)
    shard, *ports = free_ports(5)
    gateways = [(tree, edge) for edge in ("native", "grpcio") for tree in trees]
    with Supervisor(folder / "logs", os.environ) as processes:  # noqa: TID251  # a script of its own
        serve_shard = ["serve", "shard", "--location", str(folder / "index"), "--shard", "0", "--port", str(shard)]
        processes.start("shard", [*COMMAND, *serve_shard], ready=partial(is_serving, f"127.0.0.1:{shard}"))
        for (tree, edge), port in zip(gateways, ports, strict=True):
            command = ["env", "-C", str(trees[tree]), f"PYTHONPATH={trees[tree]}", *COMMAND, "serve", "gateway"]
            command += ["--shards", f"127.0.0.1:{shard}", "--port", str(port), "--grpc-server", edge]
            processes.start(f"{tree} {edge}", command, ready=partial(is_serving, f"127.0.0.1:{port}"))
        processes.wait_ready(timeout_s=120)
        pids = processes.pids()
        cpu_us: dict[tuple[str, str], list[float]] = {each: [] for each in gateways}
        for number in range(rounds):
            for (tree, edge), port in [*zip(gateways, ports, strict=True)][:: 1 if number % 2 else -1]:
                pid = pids[f"{tree} {edge}"]
                asyncio.run(cache_hit_load(port, requests, 1, [pid]))  # All are in the cache, and nothing is busy.
                before_ns = _cpu_ns(pid)
                load = asyncio.run(cache_hit_load(port, requests, calls, [pid]))
                cpu_us[tree, edge].append((_cpu_ns(pid) - before_ns) / (load.calls + 2 * QUERIES) / 1e3)
    rows = []
    for edge in ("native", "grpcio"):
        before, after = cpu_us["before", edge], cpu_us["after", edge]
        ratios = [each / other for each, other in zip(after, before, strict=True)]
        rows.append(
            {
                "server": edge,
                "before_us": round(statistics.median(before), 2),
                "after_us": round(statistics.median(after), 2),
                "least_us": [round(min(before), 2), round(min(after), 2)],
                "ratios": [round(each, 3) for each in ratios],
                "median_ratio": round(statistics.median(ratios), 3),
            }
        )
    return rows


def _cpu_ns(pid: int) -> int:
    """CPU of a process, all threads: ticks of 10 ms would be a tenth of a load."""
    return sum(int(each.read_text().split()[0]) for each in Path(f"/proc/{pid}/task").glob("*/schedstat"))


def _environ(tree: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(tree)}  # noqa: TID251  # a script of its own


if __name__ == "__main__":
    main()
