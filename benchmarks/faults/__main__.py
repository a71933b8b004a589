"""What do callers notice when one process after the other is killed, stopped, cut off or full?

Real processes serve a shop of drawn products: shards with their replicas, gateways, Redis, text encoders, the model
server. Callers search by id, text, photo and vector, mixed, classify, look for duplicates, get, count, list, upsert,
patch and remove, in an open loop at half of what the processes can do (a latency counts from when the call was due).
Then one fault at a time: steady, the fault, its end, and until all is as before. In the end every replica must have
every acknowledged change.

A row tells what only the process of the fault could answer (`its own`) from the rest: with one replica, calls for
products of its shard, and counts and lists; of a single text encoder texts, mixed queries and classifications; of a
single model server photos; of a gateway that is killed or stopped the calls that it had. All other columns are about
the rest. Targets: with several replicas no failed, partial or stale answer, no lost change, p99 during the fault at
most 3 x before; with one replica p50 at most 1.2 x, and p99 at most 2 x after the first second.

    python -m benchmarks.faults                                   every fault, two replicas: about a quarter of an hour
    python -m benchmarks.faults --faults 'kill-*,stop-shard'      only those
    python -m benchmarks.faults --replicas 1 --rate 40 --folder /tmp/shop      keep the index, and use it again
    python -m benchmarks.faults --list                            the names of the faults
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.calls import Calls
from benchmarks.faults.deployment import Deployment, Shape
from benchmarks.faults.experiment import Experiment
from benchmarks.faults.faults import Fault, chosen, faults
from benchmarks.faults.load import peak_per_s
from benchmarks.faults.oracle import Oracle
from benchmarks.faults.report import Row, table
from benchmarks.faults.shop import BuiltShop
from benchmarks.meter import write
from lookalike.local.process_specs import ROOT
from lookalike.local.supervisor import Supervisor

CAVEATS = (
    "callers, all processes and what starts again share the cores of one machine: most of what p99 gains after a kill "
    "is the CPU of a process that starts (TensorFlow's takes some 10 s of it). p50 and p99 are of all kinds together."
)


def main() -> int:
    options = _parser().parse_args()
    shape = Shape(
        shards=options.shards,
        replicas=options.replicas,
        gateways=options.gateways,
        text_encoders=options.text_encoders,
    )
    with tempfile.TemporaryDirectory(prefix="lookalike-bench-") as scratch:
        return run(options, shape, Path(scratch))


def run(options: argparse.Namespace, shape: Shape, scratch: Path) -> int:
    folder = options.folder or scratch
    shop = BuiltShop(folder / "shop", products=options.products, shards=shape.shards, seed=options.seed)
    with Supervisor(folder / "logs", os.environ, directory=ROOT) as processes:
        every = faults(shape, lambda _: shop.use(processes, 1), lambda _: shop.use(processes, 0))
        if options.list:
            print(*(each.name for each in every), sep="\n")
            return 0
        selected = chosen(every, options.faults.split(","))
        shop.build(processes)
        shop.use(processes, 0)
        with deployed(Deployment(folder / "shop", scratch / "run", shape, processes)) as deployment:
            samples = shop.samples(deployment.gateways()[0])
            oracle = Oracle()
            calls = Calls(samples, oracle, shards=shape.shards, seed=options.seed)
            per_s = options.rate or capacity_per_s(deployment, calls, options) / 2
            print(f"{per_s:.0f} calls a second", flush=True)
            experiment = Experiment(
                deployment=deployment,
                calls=calls,
                oracle=oracle,
                per_s=per_s,
                seconds=options.seconds,
                seed=options.seed,
            )
            rows = [befall(experiment, fault, options.verbose) for fault in selected]
    return report(options, shape, per_s, rows)


@contextlib.contextmanager
def deployed(deployment: Deployment) -> Iterator[Deployment]:
    try:
        deployment.start()
        yield deployment
    finally:
        deployment.close()


def capacity_per_s(deployment: Deployment, calls: Calls, options: argparse.Namespace) -> float:
    """Calls a second of all kinds in the best closed loop, once warm."""
    peak_per_s(deployment.address, calls, seconds=1, seed=options.seed)
    return peak_per_s(deployment.address, calls, seconds=options.seconds / 2, seed=options.seed)


def befall(experiment: Experiment, fault: Fault, verbose: int) -> Row:
    found, errors = experiment.run(fault)
    print(table([found]).splitlines()[-1], flush=True)
    for text, count in errors.most_common(verbose):
        print(f"  {count} x {text}", flush=True)
    return found


def report(options: argparse.Namespace, shape: Shape, per_s: float, rows: Sequence[Row]) -> int:
    result = {"shape": asdict(shape), "calls_per_s": round(per_s, 1), "rows": [each.to_json() for each in rows]}
    finish(options, f"faults_{shape.replicas}", result, table(rows))
    return 0 if all(each.meets_target for each in rows) else 1


def finish(options: argparse.Namespace, name: str, result: dict[str, Any], text: str) -> None:
    whole = {"seed": options.seed, "products": options.products, **result, "caveats": CAVEATS}
    path = write(name, whole, options.results)
    print(json.dumps(whole) if options.json else f"\n{text}\n\n{path}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.faults", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=2)
    parser.add_argument("--replicas", type=int, default=2, help="of each shard")
    parser.add_argument("--gateways", type=int, default=2)
    parser.add_argument("--text-encoders", type=int, default=1)
    parser.add_argument("--products", type=int, default=1200)
    parser.add_argument("--faults", default="*", metavar="NAME,…", help="by name or pattern; default: all")
    parser.add_argument("--list", action="store_true", help="print the names of the faults")
    parser.add_argument("--rate", type=float, default=0, help="calls a second; 0: half of what a closed loop reaches")
    parser.add_argument("--seconds", type=float, default=8, help="before, during and, at least, after each fault")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path, help="keep index and logs here, and use the index that is here")
    parser.add_argument("--results", type=Path, help="folder of the result file; default: benchmarks/results")
    parser.add_argument("--json", action="store_true", help="print the result as JSON in place of the table")
    parser.add_argument("--verbose", type=int, default=0, metavar="N", help="print the N most frequent errors, too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
