"""NGT against our recipes on the same vectors: build, memory, disk and speed at recall@10 of 0.90, 0.95 and 0.99.

Vectors are those of `benchmarks/dataset.py`. Every contender is built, measured and timed in a process of its own
(`benchmarks/contender.py`). Memory is what the kernel counts as resident: before loading, after it, and after 1,000
queries. For each target recall the cheapest settings that reach it are found on 400 queries. Then all contenders are
loaded and timed in turn, on one core, one query at a time, `--rounds` times; results are medians of CPU time.

    python -m benchmarks.ngt_comparison FOLDER [--count 100000] [--rounds 5] [--only NAME …] [--resume] [--step STEP]
    python -m benchmarks.ngt_comparison FOLDER --count 1000000 --rescore float16 --only IVF,PQ4fs …

FOLDER keeps vectors and indexes (about 40 GB for 1,000,000); --resume reuses them. Steps are build, measure (memory and
settings) and time, of which only the last needs a quiet machine. It writes
benchmarks/results/ngt_comparison_<count>.json, .md and .png, or files of another --name.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.contender import NGT_GRAPHS, TARGETS, VECTORS, map_vectors
from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import RESULTS, write
from benchmarks.neighbours import nearest
from index.storage import vectors as stored

QUERIES = 1_000
TIMED = 200  # Queries in each round.
CONTENDERS = (
    *NGT_GRAPHS,
    "Flat",
    "HNSW32",
    "HNSW32,SQ8",
    "IVF,SQ8",
    "IVF,PQ4fs",
    "IVF,RaBitQfs",
    "OPQ128_512,IVF,PQ128x4fs",
    "OPQ64_256,IVF,PQ64x4fs",
    "PCAR256,IVF,RaBitQfs",
    "PCAR256,HNSW24,SQ8",
    "SymQG32",
    "PCAR256,SymQG32",
)

SETTING = ("contender", "search_parameter", "refine_factor")

Report = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument(
        "--rescore", choices=stored.RESCORE_DTYPES, default="float32", help="type of the stored full vectors"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=CONTENDERS, metavar="NAME")
    parser.add_argument("--name", help="of the results (default: ngt_comparison_<count>)")
    parser.add_argument("--step", choices=("build", "measure", "time", "all"), default="all", help="run only this step")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run built and measured")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / "truth.npy").exists():
        prepare(options.folder, options.count, options.rescore)
    reports = {name: load_report(options.folder, name) if options.resume else {} for name in options.only}
    for step in (
        (build, measure) if options.step == "all" else {"build": (build,), "measure": (measure,)}.get(options.step, ())
    ):
        for name, report in reports.items():
            step(options.folder, name, report)
    if options.step in ("time", "all"):
        time_all(options.folder, reports, options.rounds)
        publish(options.name or f"ngt_comparison_{options.count}", options.count, options.rescore, reports)


def prepare(folder: Path, count: int, rescore: str) -> None:
    """Write vectors, queries, and the true neighbours of the queries."""
    dataset = CnnLike()
    stored.write_vectors(folder / VECTORS, dataset.vectors(count), documents=count, dim=DIM, rescore=rescore)
    queries = dataset.queries(QUERIES)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", nearest(map_vectors(folder), queries))


def build(folder: Path, name: str, report: Report) -> None:
    if "build" not in report:
        report["build"] = json.loads(run_contender("build", folder, name))
        save_report(folder, name, report)


def measure(folder: Path, name: str, report: Report) -> None:
    if "measured" not in report:
        report["measured"] = json.loads(run_contender("measure", folder, name))
        reached = report["measured"]["at_recall"]
        for settings, reads in zip(
            reached.values(),
            json.loads(run_contender("cold", folder, name, json.dumps(list(reached.values())))),
            strict=True,
        ):
            settings.update(reads)
        if name in NGT_GRAPHS:
            report["measured"]["writable"] = json.loads(run_contender("writable", folder, name))
        save_report(folder, name, report)


def time_all(folder: Path, reports: Mapping[str, Report], rounds: int) -> None:
    """Time all contenders in turn, so that other load on the machine affects all of them."""
    with ExitStack() as running:
        processes = {name: running.enter_context(serving(folder, name)) for name in reports}
        for turn in range(rounds + 1):  # The first warms up.
            for name, process in processes.items():
                reached = [*reports[name]["measured"]["at_recall"].values()]
                for settings in reached[:1]:  # Once more, untimed: the caches hold what other contenders read.
                    time_settings(process, name, settings)
                for settings in reached:
                    took_ms = time_settings(process, name, settings)
                    settings.setdefault("rounds", [])
                    settings["rounds"] += [took_ms] if turn else []
    for report in reports.values():
        for settings in report["measured"]["at_recall"].values():
            turns = np.array(settings.pop("rounds"))
            settings["qps"] = round(1e3 / float(np.median(turns.mean(axis=1))), 1)
            p50, p99 = np.median(np.percentile(turns, (50, 99), axis=1), axis=1)
            settings["p50_ms"], settings["p99_ms"] = round(float(p50), 3), round(float(p99), 3)


def time_settings(process: Callable[[str], str], name: str, settings: Mapping[str, float]) -> list[float]:
    """CPU milliseconds of each query."""
    request = {
        "search_parameter": settings["search_parameter"],
        "refine_factor": settings["refine_factor"],
        "count": TIMED if name != "Flat" else 30,
    }
    took_ms: list[float] = json.loads(process(json.dumps(request)))
    return took_ms


@contextmanager
def serving(folder: Path, name: str) -> Iterator[Callable[[str], str]]:
    """Run a loaded contender; yields a function that sends a line and returns its line of output."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command("serve", folder, name), stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        stdin, stdout = process.stdin, process.stdout
        assert stdin is not None  # noqa: S101  # for the type checker, as the next
        assert stdout is not None  # noqa: S101

        def answer(line: str) -> str:
            stdin.write(line + "\n")
            stdin.flush()
            return stdout.readline()

        stdout.readline()
        yield answer


def run_contender(verb: str, folder: Path, name: str, text: str = "") -> str:
    """Run a contender; returns the last line of its output, to which NGT writes, too."""
    completed = subprocess.run(command(verb, folder, name), input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if completed.returncode:
        raise RuntimeError(f"{name}: {verb} ended with {completed.returncode}:\n{completed.stderr[-2000:]}")
    print(f"{verb} {name}: {completed.stdout.splitlines()[-1]}", flush=True)
    return completed.stdout.splitlines()[-1]


def command(verb: str, folder: Path, name: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.contender", verb, name, str(folder), str(folder / slug(name))]


def slug(name: str) -> str:
    return name.replace(",", "-").replace(" ", "-").lower()


def load_report(folder: Path, name: str) -> Report:
    path = folder / f"{slug(name)}.json"
    found: Report = json.loads(path.read_text()) if path.exists() else {}
    return found


def save_report(folder: Path, name: str, report: Report) -> None:
    (folder / f"{slug(name)}.json").write_text(json.dumps(report))


# The published result.


def result_rows(count: int, rescore: str, reports: Mapping[str, Report]) -> list[Report]:
    """A row for each contender and target recall."""
    width = DIM * np.dtype(rescore).itemsize
    rows: list[Report] = []
    for name, report in reports.items():
        measured, kept = report["measured"], 0 if name in NGT_GRAPHS else width
        anonymous, resident = (
            growth(measured["before"], measured["warm"], kind) / count for kind in ("RssAnon", "VmRSS")
        )
        for target, settings in measured["at_recall"].items():
            rows.append(
                {
                    "contender": name,
                    "recall_target": float(target),
                    **settings,
                    "ram_bytes_per_vector": round(anonymous, 1),
                    "resident_with_mapped_bytes_per_vector": round(resident, 1),
                    "disk_bytes_per_vector": round(report["build"]["index_bytes"] / count + kept, 1),
                    "build_cpu_s": report["build"]["build_cpu_s"],
                    "build_peak_rss_bytes": report["build"]["build_peak_rss_bytes"],
                }
            )
    return rows


def growth(before: Mapping[str, int], after: Mapping[str, int], kind: str) -> int:
    return after[kind] - before[kind]


def publish(name: str, count: int, rescore: str, reports: Mapping[str, Report]) -> None:
    rows = result_rows(count, rescore, reports)
    ngt = next((row["ram_bytes_per_vector"] for row in rows if row["contender"] == NGT_GRAPHS[0]), None)
    for row in rows:
        row["ngt_takes_times_as_much_ram"] = (
            None if ngt is None else round(ngt / max(row["ram_bytes_per_vector"], 1), 1)
        )
    missed = {
        contender: [f"{target:.2f}" for target in TARGETS if f"{target:.2f}" not in report["measured"]["at_recall"]]
        for contender, report in reports.items()
    }
    result = {
        "vectors": f"{count} x {DIM}, benchmarks/dataset.py, seed 0; {QUERIES} queries; full vectors {rescore}",
        "rows": rows,
        "ngt_opened_to_be_changed_ram_bytes_per_vector": {
            contender: round(growth(opened["before"], opened["loaded"], "RssAnon") / count, 1)
            for contender, report in reports.items()
            for opened in [report["measured"].get("writable")]
            if opened is not None
        },
        "recall_not_reached": {contender: targets for contender, targets in missed.items() if targets},
        "memory": "ram: anonymous pages, which the kernel cannot take back; resident: mapped full vectors, too",
        "caveats": "a shared machine: CPU time, one core, one query at a time, medians of rounds in turn; p50 and p99 "
        "are of a query's own CPU time: its latency on a free core, vectors being cached; builds beside other work",
    }
    print(write(name, result))
    (RESULTS / f"{name}.md").write_text(table(rows), encoding="utf-8")
    plot(rows, RESULTS / f"{name}.png", f"{count:,} × {DIM}")


def table(rows: Sequence[Report]) -> str:
    head = (
        "contender | recall@10 | RAM B/vector | NGT's RAM : this | disk B/vector | QPS of a core | p50 / p99 ms | "
        "pages per query | build CPU s"
    )
    lines = [f"| {head} |", "|" + " --- |" * len(head.split(" | "))]
    shown = [row for before, row in zip([None, *rows], rows, strict=False) if not is_same_setting(before, row)]
    return "\n".join(lines + [f"| {table_line(row)} |" for row in shown]) + "\n"


def is_same_setting(before: Report | None, row: Report) -> bool:
    """Whether the settings of the next lower target recall reach this one, too."""
    return before is not None and [before[part] for part in SETTING] == [row[part] for part in SETTING]


def table_line(row: Report) -> str:
    return " | ".join(
        (
            row["contender"],
            f"{row['recall']:.3f}",
            f"{row['ram_bytes_per_vector']:,.0f}",
            f"{row['ngt_takes_times_as_much_ram']}",
            f"{row['disk_bytes_per_vector']:,.0f}",
            f"{row['qps']:,.0f}",
            f"{row['p50_ms']:.2f} / {row['p99_ms']:.2f}",
            f"{row['pages_touched']:,.0f}",
            f"{row['build_cpu_s']:,.0f}",
        )
    )


def plot(rows: Sequence[Report], path: Path, title: str) -> None:
    """Plot memory against speed, in a panel for each target recall."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TARGETS), figsize=(15, 5), sharex=True, sharey=True, layout="constrained")
    for panel, target in zip(panels, TARGETS, strict=True):
        for row in (row for row in rows if row["recall_target"] == target):
            at = max(row["ram_bytes_per_vector"], 1), row["qps"]
            colour = f"C{sorted({each['contender'] for each in rows}).index(row['contender'])}"
            marker = "s" if row["contender"] in NGT_GRAPHS else "o"
            panel.scatter(*at, s=60, color=colour, marker=marker, label=row["contender"])
        panel.set(
            xscale="log", yscale="log", title=f"{title}, recall@10 ≥ {target:.2f}", xlabel="RAM, bytes per vector"
        )
        panel.grid(alpha=0.3, which="both")
    panels[0].legend(fontsize=8, loc="lower right")
    panels[0].set_ylabel("queries per second of one core")
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
