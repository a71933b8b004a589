"""`lookalike index tune`: which recipe your vectors want, within a budget of memory, recall and time. Reads and writes
files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from index.building import tune_report
from index.building.bulk import vectors_of
from index.building.ladder import EXACT_FLOATS
from index.building.tune_choice import Budget, chosen, nearest
from index.building.tune_report import Findings, lacking, told
from index.building.tune_trial import candidates, tried
from index.storage.vectors import RESCORES, Stored
from lookalike.cli import arguments
from lookalike.cli.progress import stage_progress_bar
from lookalike.errors import BadArtifact, BadSettings
from lookalike.vectors import F32, normalised

LEAST = 1024  # Vectors in a sample: its half has lists and codes to learn, too.
UNMET = 1  # Exit status.

EPILOG = """examples:
  lookalike index tune --vectors base.npy --bytes-per-vector 48 --recall 0.9
  lookalike index tune --vectors base.npy --bytes-per-vector 80 --recall 0.95 --latency-ms 1 --shards 4 --out report

Writes tune.md, tune.json and tune.png, and prints the command that builds what was chosen; for SPACE put what your
vectors say of products: image, text or product.
Exit status 1: no recipe meets the budget; the nearest is named."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    options = _parser().parse_args(argv)
    tune_report.plotting()  # Where it is missing, say so at once.
    vectors = vectors_of(options.vectors)
    budget = _budget(options, *vectors.shape)
    tune_report.prepare(options.out)
    sample = _sample(options.vectors, vectors, min(options.sample, budget.documents), options.rescore, options.seed)
    names, rows = candidates(vectors.shape[1]), []
    threads = options.threads or len(os.sched_getaffinity(0))
    with stage_progress_bar() as progress:
        for done, name in enumerate(names):
            progress(f"trying {name}", done, len(names))
            rows.append(tried(name, sample, budget, seed=options.seed, threads=threads))
        progress("done", len(names), len(names))
    rows.sort(key=lambda row: row.ram_bytes)
    best = chosen(rows, budget)
    findings = Findings(
        vectors=options.vectors.name,
        count=len(vectors),
        dim=vectors.shape[1],
        shards=options.shards,
        sample=len(sample),
        rescore=options.rescore,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        budget=budget,
        rows=rows,
        chosen=best,
        nearest=nearest(rows, budget),
        command="" if best is None else _command(options, best.recipe),
    )
    tune_report.write(options.out, findings)
    _say(options.out, findings, as_json=options.json)
    return 0 if best else UNMET


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike index tune",
        description="Try recipes on a sample of your vectors, and choose the fastest within a budget.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vectors", required=True, type=Path, help="NumPy file, float32 (n, dim); memory-mapped")
    parser.add_argument(
        "--bytes-per-vector", required=True, type=float, help="of memory, all that an index keeps there"
    )
    parser.add_argument("--recall", required=True, type=float, help="of the k nearest, above 0 and below 1")
    parser.add_argument("--latency-ms", type=float, help="of one core for one query (default: any)")
    parser.add_argument("--k", type=int, default=10, help="how many neighbours are wanted (default: 10)")
    parser.add_argument("--sample", type=int, default=20_000, help="vectors to try recipes on (default: 20000)")
    parser.add_argument("--shards", type=int, default=1, help="of the index to be built (default: 1)")
    parser.add_argument("--rescore", default="float32", choices=RESCORES, help="what full vectors are kept as on disk")
    parser.add_argument("--out", type=Path, default=Path("tune"), help="folder for the report (default: tune)")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("--threads", type=arguments.threads, default=0, help="cores to use; 0: all (default)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _budget(options: argparse.Namespace, count: int, dim: int) -> Budget:
    """Raises BadSettings for what no recipe can be tried for."""
    if options.shards < 1:
        raise BadSettings(f"--shards {options.shards}: not above 0")
    documents = count // options.shards
    if not 0 < options.recall < 1:
        raise BadSettings(f"--recall {options.recall}: not above 0 and below 1")
    for name in ("bytes_per_vector", "latency_ms"):
        if (value := getattr(options, name)) is not None and not 0 < value < float("inf"):
            raise BadSettings(f"--{name.replace('_', '-')} {value}: not a number above 0")
    if documents * dim <= EXACT_FLOATS or documents < LEAST:
        raise BadSettings(
            f"{options.vectors}: {documents} vectors of {dim} dimensions in a shard are few: compared one by one they "
            "take no memory and little time; build without --recipe"
        )
    if options.sample < LEAST:
        raise BadSettings(f"--sample {options.sample}: at least {LEAST}")
    most = min(options.sample, documents) // 20
    if not 1 <= options.k <= most:
        raise BadSettings(f"--k {options.k}: not in 1..{most}, a twentieth of the sample")
    return Budget(
        documents=documents,
        k=options.k,
        recall=options.recall,
        bytes_per_vector=options.bytes_per_vector,
        latency_ms=options.latency_ms,
    )


def _sample(path: Path, vectors: F32, size: int, rescore: str, seed: int) -> Stored:
    """Unit vectors in random order. Raises BadArtifact naming the one that has no direction."""
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(vectors), size, replace=False))
    drawn = vectors[rows]
    for bad, why in ((~np.isfinite(drawn).all(axis=1), "not finite"), (~drawn.any(axis=1), "zero")):
        if bad.any():
            raise BadArtifact(f"{path}: vector {rows[bad.argmax()]} is {why}")
    unit: Stored = normalised(drawn)[random.permutation(size)].astype(rescore)
    return unit


def _command(options: argparse.Namespace, recipe: str) -> str:
    words = ["lookalike", "index", "build", "--vectors", str(options.vectors), "--space", "SPACE"]
    words += ["--shards", str(options.shards), "--recipe", recipe, "--recall", f"{options.recall:g}"]
    return shlex.join([*words, "--rescore", options.rescore, "index"])


def _say(out: Path, findings: Findings, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(tune_report.as_json(findings)))
        return
    budget, row = findings.budget, findings.chosen or findings.nearest
    if findings.chosen is None:
        print(f"no recipe meets {told(budget)}")
        print(f"the nearest is {row.recipe}: {lacking(row, budget)}")
    else:
        print(f"{row.recipe}: {row.ram_bytes:.1f} B a vector in memory, recall@{budget.k} {row.recall:.3f}, ", end="")
        print(f"{row.cpu_ms:.2f} ms and {row.pages:.0f} pages a query")
        print(findings.command)
    print(f"all that was measured: {out / 'tune.md'}")
