"""`lookalike index tune`: choose a recipe within a budget of memory, recall and time. Reads and writes files."""

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
from index.building.build_command import read_vectors
from index.building.calibration import EXACT_FLOATS
from index.building.tune_report import TuneFindings
from index.building.tune_selection import TuneBudget, fastest_within, nearest_to
from index.building.tune_trial import QUERIES, Sample, candidate_recipes, measure_recipe
from index.storage.vectors import RESCORE_DTYPES
from lookalike.cli import arguments
from lookalike.cli.progress import stage_progress_bar
from lookalike.errors import BadArtifact, BadSettings
from lookalike.vectors import F32, normalised

MIN_SAMPLE = 1024  # Vectors; half of them must still be enough to train lists and codes.
EXIT_BUDGET_UNMET = 1

EPILOG = """examples:
  lookalike index tune --vectors base.npy --bytes-per-vector 48 --recall 0.9
  lookalike index tune --vectors base.npy --bytes-per-vector 80 --recall 0.95 --latency-ms 1 --shards 4 --out report

Writes tune.md, tune.json and tune.png, and prints the command that builds an index with the chosen recipe; replace
SPACE by the space of your vectors: image, text or product.
Exit status 1: no recipe meets the budget; the nearest is named."""


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int | None:
    options = _parser().parse_args(argv)
    tune_report.import_plotting()  # Fail now, not after the measurements, where it is missing.
    vectors = read_vectors(options.vectors)
    budget = _parse_budget(options, *vectors.shape)
    tune_report.prepare_folder(options.out)
    sample = _draw_sample(
        options.vectors, vectors, min(options.sample + QUERIES, budget.documents), options.rescore, options.seed
    )
    recipes, measurements = candidate_recipes(vectors.shape[1]), []
    threads = options.threads or len(os.sched_getaffinity(0))
    with stage_progress_bar() as progress:
        for done, name in enumerate(recipes):
            progress(f"measuring {name}", done, len(recipes))
            measurements.append(measure_recipe(name, sample, budget, seed=options.seed, threads=threads))
        progress("done", len(recipes), len(recipes))
    measurements.sort(key=lambda row: row.ram_bytes)
    best = fastest_within(measurements, budget)
    findings = TuneFindings(
        vectors=options.vectors.name,
        count=len(vectors),
        dim=vectors.shape[1],
        shards=options.shards,
        sample=len(sample.vectors),
        rescore=options.rescore,
        machine=f"{platform.machine()}, {os.cpu_count()} cores",
        date=f"{datetime.now(UTC):%Y-%m-%d}",
        budget=budget,
        rows=measurements,
        chosen=best,
        nearest=nearest_to(measurements, budget),
        command="" if best is None else _build_command(options, best.recipe),
    )
    tune_report.write_report(options.out, findings)
    _print_findings(options.out, findings, as_json=options.json)
    return 0 if best else EXIT_BUDGET_UNMET


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="lookalike index tune",
        description="Try recipes on a sample of your vectors, and choose the fastest within a budget.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--vectors", required=True, type=Path, help="NumPy file, float32 (n, dim); memory-mapped")
    parser.add_argument(
        "--bytes-per-vector", required=True, type=float, help="memory of the index per vector, everything included"
    )
    parser.add_argument("--recall", required=True, type=float, help="target recall@k, above 0 and below 1")
    parser.add_argument("--latency-ms", type=float, help="CPU time of one core for one query (default: no limit)")
    parser.add_argument("--k", type=int, default=10, help="number of neighbours (default: 10)")
    parser.add_argument("--sample", type=int, default=20_000, help="vectors to measure recipes on (default: 20000)")
    parser.add_argument("--shards", type=int, default=1, help="number of shards of the index to be built (default: 1)")
    parser.add_argument("--rescore", default="float32", choices=RESCORE_DTYPES, help="type of the full vectors on disk")
    parser.add_argument("--out", type=Path, default=Path("tune"), help="folder for the report (default: tune)")
    parser.add_argument("--seed", type=arguments.seed, default=0)
    parser.add_argument("--threads", type=arguments.threads, default=0, help="cores to use; 0: all (default)")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    return parser


def _parse_budget(options: argparse.Namespace, count: int, dim: int) -> TuneBudget:
    """Raises BadSettings for options that no recipe can be measured for."""
    if options.shards < 1:
        raise BadSettings(f"--shards {options.shards}: must be above 0")
    documents = count // options.shards
    if not 0 < options.recall < 1:
        raise BadSettings(f"--recall {options.recall}: must be above 0 and below 1")
    for name in ("bytes_per_vector", "latency_ms"):
        if (value := getattr(options, name)) is not None and not 0 < value < float("inf"):
            raise BadSettings(f"--{name.replace('_', '-')} {value}: must be a number above 0")
    if documents * dim <= EXACT_FLOATS or documents < MIN_SAMPLE:
        raise BadSettings(
            f"{options.vectors}: {documents} vectors of {dim} dimensions in a shard are few: exact search takes no "
            "memory and little time; build without --recipe"
        )
    if options.sample < MIN_SAMPLE:
        raise BadSettings(f"--sample {options.sample}: must be at least {MIN_SAMPLE}")
    most = min(options.sample, documents) // 20
    if not 1 <= options.k <= most:
        raise BadSettings(f"--k {options.k}: must be in 1..{most}, a twentieth of the sample")
    return TuneBudget(
        documents=documents,
        k=options.k,
        recall=options.recall,
        bytes_per_vector=options.bytes_per_vector,
        latency_ms=options.latency_ms,
    )


def _draw_sample(path: Path, vectors: F32, size: int, rescore: str, seed: int) -> Sample:
    """`size` of the vectors, in part as queries. Raises BadArtifact naming a vector that is zero or not finite."""
    random = np.random.default_rng(seed)
    rows = np.sort(random.choice(len(vectors), size, replace=False))
    sampled = vectors[rows]
    for bad, why in ((~np.isfinite(sampled).all(axis=1), "not finite"), (~sampled.any(axis=1), "zero")):
        if bad.any():
            raise BadArtifact(f"{path}: vector {rows[bad.argmax()]} is {why}")
    return Sample.split(normalised(sampled)[random.permutation(size)].astype(rescore))


def _build_command(options: argparse.Namespace, recipe: str) -> str:
    words = ["lookalike", "index", "build", "--vectors", str(options.vectors), "--space", "SPACE"]
    words += ["--shards", str(options.shards), "--recipe", recipe, "--recall", f"{options.recall:g}"]
    return shlex.join([*words, "--rescore", options.rescore, "index"])


def _print_findings(out: Path, findings: TuneFindings, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(tune_report.as_json(findings)))
        return
    budget, row = findings.budget, findings.chosen or findings.nearest
    if findings.chosen is None:
        print(f"no recipe meets {tune_report.describe_budget(budget)}")
        print(f"the nearest is {row.recipe}: {tune_report.describe_excesses(row, budget)}")
    else:
        print(f"{row.recipe}: {row.ram_bytes:.1f} B per vector in memory, recall@{budget.k} {row.recall:.3f}, ", end="")
        print(f"{row.cpu_ms:.2f} ms and {row.pages:.0f} pages per query")
        print(findings.command)
    print(f"all measurements: {out / 'tune.md'}")
