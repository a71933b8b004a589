"""NGT against our recipes on the same vectors: building, memory, disk, speed, at recall@10 of 0.90, 0.95 and 0.99.

Vectors are those of `benchmarks/dataset.py`. Every contender is built, weighed and timed in a process of its own
(`benchmarks/contender.py`): memory is what the kernel says is resident, before loading, after it, and after 1,000
queries. Each recall is reached by the least search parameter that does, found on 400 queries. Then all contenders are
loaded and timed in turn, on one core, one query at a time, `--rounds` times; medians, of CPU time.

    python -m benchmarks.ngt_comparison FOLDER [--count 100000] [--rounds 5] [--only NAME …] [--resume]
    python -m benchmarks.ngt_comparison FOLDER --count 1000000 --rescore float16 --only IVF,PQ4fs …

FOLDER keeps vectors and indexes (about 30 GB for 1,000,000); --resume takes what is there. Writes
benchmarks/results/ngt_comparison_<count>.json, .md and .png.
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

from benchmarks.contender import NGT_GRAPHS, TARGETS, VECTORS, K, mapped
from benchmarks.dataset import DIM, CnnLike
from benchmarks.meter import RESULTS, write
from index.storage import vectors as stored
from lookalike.vectors import F32, I64

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
)

SETTING = ("contender", "search_parameter", "factor")

Report = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--count", type=int, default=100_000)
    parser.add_argument(
        "--rescore", choices=stored.RESCORE_DTYPES, default="float32", help="what full vectors are kept as"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=CONTENDERS, metavar="NAME")
    parser.add_argument("--step", choices=("build", "weigh", "time", "all"), default="all", help="do only this")
    parser.add_argument("--resume", action="store_true", help="keep what an earlier run built and weighed")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    if not (options.folder / "truth.npy").exists():
        prepare(options.folder, options.count, options.rescore)
    reports = {name: known(options.folder, name) if options.resume else {} for name in options.only}
    for step in (
        (build, weigh) if options.step == "all" else {"build": (build,), "weigh": (weigh,)}.get(options.step, ())
    ):
        for name, report in reports.items():
            step(options.folder, name, report)
    if options.step in ("time", "all"):
        time_all(options.folder, reports, options.rounds)
        publish(options.count, options.rescore, reports)


def prepare(folder: Path, count: int, rescore: str) -> None:
    """Vectors, queries, and the true neighbours of these."""
    made = CnnLike()
    stored.write_vectors(folder / VECTORS, made.vectors(count), documents=count, dim=DIM, rescore=rescore)
    queries = made.queries(QUERIES)
    np.save(folder / "queries.npy", queries)
    np.save(folder / "truth.npy", nearest(mapped(folder), queries))


def nearest(vectors: stored.StoredVectors, queries: F32, k: int = K) -> I64:
    """(n, k) rows by falling inner product, of all vectors."""
    rows, scores = np.empty((len(queries), 0), np.int64), np.empty((len(queries), 0), np.float32)
    for start in range(0, len(vectors), 1 << 13):
        part = vectors[start : start + (1 << 13)].astype(np.float32)
        rows = np.hstack((rows, np.broadcast_to(np.arange(start, start + len(part)), (len(queries), len(part)))))
        scores = np.hstack((scores, queries @ part.T))
        best = np.argpartition(-scores, k - 1, axis=1)[:, :k]
        rows, scores = np.take_along_axis(rows, best, 1), np.take_along_axis(scores, best, 1)
    return np.take_along_axis(rows, np.argsort(-scores, axis=1), 1)


def build(folder: Path, name: str, report: Report) -> None:
    if "build" not in report:
        report["build"] = json.loads(ask("build", folder, name))
        keep(folder, name, report)


def weigh(folder: Path, name: str, report: Report) -> None:
    if "weight" not in report:
        report["weight"] = json.loads(ask("weigh", folder, name))
        reached = report["weight"]["at_recall"]
        for knobs, reads in zip(
            reached.values(), json.loads(ask("cold", folder, name, json.dumps(list(reached.values())))), strict=True
        ):
            knobs.update(reads)
        if name in NGT_GRAPHS:
            report["weight"]["to_change"] = json.loads(ask("change", folder, name))
        keep(folder, name, report)


def time_all(folder: Path, reports: Mapping[str, Report], rounds: int) -> None:
    """All in turn, so that what else the machine does falls on all."""
    with ExitStack() as running:
        processes = {name: running.enter_context(serving(folder, name)) for name in reports}
        for turn in range(rounds + 1):  # The first warms up.
            for name, process in processes.items():
                for knobs in reports[name]["weight"]["at_recall"].values():
                    count = TIMED if name != "Flat" else 30
                    asked = {"search_parameter": knobs["search_parameter"], "factor": knobs["factor"], "count": count}
                    took_ms = json.loads(process(json.dumps(asked)))
                    knobs.setdefault("rounds", [])
                    knobs["rounds"] += [took_ms] if turn else []
    for report in reports.values():
        for knobs in report["weight"]["at_recall"].values():
            turns = np.array(knobs.pop("rounds"))
            knobs["qps"] = round(1e3 / float(np.median(turns.mean(axis=1))), 1)
            p50, p99 = np.median(np.percentile(turns, (50, 99), axis=1), axis=1)
            knobs["p50_ms"], knobs["p99_ms"] = round(float(p50), 3), round(float(p99), 3)


@contextmanager
def serving(folder: Path, name: str) -> Iterator[Callable[[str], str]]:
    """A contender that is loaded: a line in, a line out."""
    pipe = subprocess.PIPE
    with subprocess.Popen(command("serve", folder, name), stdin=pipe, stdout=pipe, text=True) as process:  # noqa: S603
        given, said = process.stdin, process.stdout
        assert given is not None  # noqa: S101  # for the type checker, as the next
        assert said is not None  # noqa: S101

        def answer(line: str) -> str:
            given.write(line + "\n")
            given.flush()
            return said.readline()

        said.readline()
        yield answer


def ask(verb: str, folder: Path, name: str, text: str = "") -> str:
    """The last line of what it says: NGT writes there, too."""
    said = subprocess.run(command(verb, folder, name), input=text, capture_output=True, text=True, check=False)  # noqa: S603
    if said.returncode:
        raise RuntimeError(f"{name}: {verb} ended with {said.returncode}:\n{said.stderr[-2000:]}")
    print(f"{verb} {name}: {said.stdout.splitlines()[-1]}", flush=True)
    return said.stdout.splitlines()[-1]


def command(verb: str, folder: Path, name: str) -> list[str]:
    return [sys.executable, "-m", "benchmarks.contender", verb, name, str(folder), str(folder / slug(name))]


def slug(name: str) -> str:
    return name.replace(",", "-").replace(" ", "-").lower()


def known(folder: Path, name: str) -> Report:
    path = folder / f"{slug(name)}.json"
    found: Report = json.loads(path.read_text()) if path.exists() else {}
    return found


def keep(folder: Path, name: str, report: Report) -> None:
    (folder / f"{slug(name)}.json").write_text(json.dumps(report))


# What is published.


def rows(count: int, rescore: str, reports: Mapping[str, Report]) -> list[Report]:
    """One for each contender and recall."""
    width = DIM * np.dtype(rescore).itemsize
    made = []
    for name, report in reports.items():
        weight, kept = report["weight"], 0 if name in NGT_GRAPHS else width
        anonymous, resident = (more(weight["before"], weight["warm"], kind) / count for kind in ("RssAnon", "VmRSS"))
        for target, knobs in weight["at_recall"].items():
            made.append(
                {
                    "contender": name,
                    "recall_target": float(target),
                    **knobs,
                    "ram_bytes_per_vector": round(anonymous, 1),
                    "resident_with_mapped_bytes_per_vector": round(resident, 1),
                    "disk_bytes_per_vector": round(report["build"]["index_bytes"] / count + kept, 1),
                    "build_cpu_s": report["build"]["build_cpu_s"],
                    "build_peak_rss_bytes": report["build"]["build_peak_rss_bytes"],
                }
            )
    return made


def more(before: Mapping[str, int], after: Mapping[str, int], kind: str) -> int:
    return after[kind] - before[kind]


def publish(count: int, rescore: str, reports: Mapping[str, Report]) -> None:
    made = rows(count, rescore, reports)
    name = f"ngt_comparison_{count}"
    ngt = next((row["ram_bytes_per_vector"] for row in made if row["contender"] == NGT_GRAPHS[0]), None)
    for row in made:
        row["ngt_takes_times_as_much_ram"] = (
            None if ngt is None else round(ngt / max(row["ram_bytes_per_vector"], 1), 1)
        )
    missed = {
        contender: [f"{target:.2f}" for target in TARGETS if f"{target:.2f}" not in report["weight"]["at_recall"]]
        for contender, report in reports.items()
    }
    result = {
        "vectors": f"{count} x {DIM}, benchmarks/dataset.py, seed 0; {QUERIES} queries; full vectors {rescore}",
        "rows": made,
        "ngt_opened_to_be_changed_ram_bytes_per_vector": {
            contender: round(more(opened["before"], opened["loaded"], "RssAnon") / count, 1)
            for contender, report in reports.items()
            for opened in [report["weight"].get("to_change")]
            if opened is not None
        },
        "recall_not_reached": {contender: targets for contender, targets in missed.items() if targets},
        "memory": "ram: anonymous pages, which the kernel cannot take back; resident: mapped full vectors, too",
        "caveats": "a shared machine: CPU time, one core, one query at a time, medians of rounds in turn; p50 and p99 "
        "are of a query's own CPU time: its latency on a free core, vectors being cached; builds beside other work",
    }
    print(write(name, result))
    (RESULTS / f"{name}.md").write_text(table(made), encoding="utf-8")
    plot(made, RESULTS / f"{name}.png", f"{count:,} × {DIM}")


def table(made: Sequence[Report]) -> str:
    head = (
        "contender | recall@10 | RAM B/vector | NGT's RAM : this | disk B/vector | QPS of a core | p50 / p99 ms | "
        "pages a query reads | build CPU s"
    )
    lines = [f"| {head} |", "|" + " --- |" * len(head.split(" | "))]
    shown = [row for before, row in zip([None, *made], made, strict=False) if not same(before, row)]
    return "\n".join(lines + [f"| {line(row)} |" for row in shown]) + "\n"


def same(before: Report | None, row: Report) -> bool:
    """Whether the search_parameter for the recall below reaches this one, too."""
    return before is not None and [before[part] for part in SETTING] == [row[part] for part in SETTING]


def line(row: Report) -> str:
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


def plot(made: Sequence[Report], path: Path, title: str) -> None:
    """Memory against speed, a panel for each recall."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, panels = pyplot.subplots(1, len(TARGETS), figsize=(15, 5), sharex=True, sharey=True, layout="constrained")
    for panel, target in zip(panels, TARGETS, strict=True):
        for row in (row for row in made if row["recall_target"] == target):
            at = max(row["ram_bytes_per_vector"], 1), row["qps"]
            colour = f"C{sorted({each['contender'] for each in made}).index(row['contender'])}"
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
