"""The report of `lookalike index tune`, as Markdown, JSON and a plot by matplotlib. Writes files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from index.building.tune_selection import RecipeMeasurement, TuneBudget, budget_excesses, pareto_front
from lookalike.errors import OperatorError

_HEAD = (
    "recipe",
    "B/vector in RAM",
    "recall",
    "measured at half → all of the sample",
    "search parameter × candidates per result",
)
_TAIL = ("CPU ms/query", "at the sample", "pages/query", "meets the budget")
_DPI = 120


@dataclass(frozen=True, kw_only=True)
class TuneFindings:
    """The content of the report."""

    vectors: str
    count: int
    dim: int
    shards: int
    sample: int
    rescore: str
    machine: str
    date: str
    budget: TuneBudget
    rows: Sequence[RecipeMeasurement]  # By rising memory.
    chosen: RecipeMeasurement | None
    nearest: RecipeMeasurement
    command: str

    @property
    def disk_bytes(self) -> float:
        """Per vector, full vectors and their rows, beside the index, which is on disk, too."""
        return self.dim * (2 if self.rescore == "float16" else 4) + 8


def import_plotting() -> Any:
    """matplotlib.figure, which draws to files only. Raises OperatorError where it is not installed."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise OperatorError(f"the plot needs matplotlib: pip install matplotlib ({error})") from None
    return figure


def prepare_folder(folder: Path) -> None:
    """Make the folder before measuring takes its time. Raises OperatorError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OperatorError(f"{folder}: the report cannot be written there: {error.strerror}") from error


def write_report(folder: Path, findings: TuneFindings) -> None:
    """Write tune.md, tune.json and tune.png to a prepared folder. Raises OperatorError."""
    try:
        (folder / "tune.md").write_text(markdown(findings), encoding="utf-8")
        (folder / "tune.json").write_text(json.dumps(as_json(findings), indent=1) + "\n", encoding="utf-8")
        _plot(folder / "tune.png", findings)
    except OSError as error:
        raise OperatorError(f"{folder}: {error}") from error


def as_json(findings: TuneFindings) -> dict[str, Any]:
    return {**asdict(findings), "disk_bytes_per_vector": findings.disk_bytes}


def markdown(findings: TuneFindings) -> str:
    lines = [
        "# Recipes for these vectors",
        "",
        f"{findings.count:,} vectors of {findings.dim} dimensions (`{findings.vectors}`) in {findings.shards}"
        f" shard(s), stored as {findings.rescore}: {findings.disk_bytes:,.0f} B per vector on disk, beside the"
        f" index. Budget: {describe_budget(findings.budget)}.",
        "",
        _verdict(findings),
        "",
        *_table((*_HEAD, *_TAIL), [_row(row, findings.budget) for row in findings.rows]),
        "",
        "![memory and time at the target recall](tune.png)",
        "",
        "## What was measured, and what was extrapolated",
        "",
        *(f"* {assumption}" for assumption in _assumptions(findings)),
    ]
    return "\n".join(lines) + "\n"


def _assumptions(findings: TuneFindings) -> tuple[str, ...]:
    budget = findings.budget
    ratio = budget.documents / findings.sample
    max_error = max(abs(row.formula_error) for row in findings.rows)
    return (
        f"Every recipe indexed {findings.sample:,} of the vectors, and half of these. The"
        f" recall@{budget.k} is that of others of the vectors, after full vectors of the candidates were compared;"
        " an operating point reaches the target if its recall less its standard error does.",
        f"A shard will hold {budget.documents:,}, {ratio:,.1f} times as many. **Memory** is by formula: codes,"
        f" ids, links, centroids, matrices. For the sample it was off by {max_error:.1%} at most.",
        "**Recall**: each doubling is taken to lose, at the same operating point, what was lost from half of the"
        " sample to all of it; a gain counts as no loss. Where the result was below the target, costlier"
        " operating points were measured. The build calibrates again, on all vectors.",
        "**CPU** is one core's time for one query at a time, with full vectors in memory, extrapolated"
        " by a cost model of lists, codes and candidates.",
        "**Pages** of 4,096 B are the distinct ones that a query's candidates lie in: each is a disk read"
        f" where it is not in memory. Measured on {findings.machine}, {findings.date}.",
    )


def describe_budget(budget: TuneBudget) -> str:
    text = f"recall@{budget.k} of {budget.recall:g} with at most {budget.bytes_per_vector:g} B per vector in memory"
    return text if budget.latency_ms is None else f"{text} and {budget.latency_ms:g} ms per query"


def describe_excesses(row: RecipeMeasurement, budget: TuneBudget) -> str:
    """How a recipe exceeds the budget, in words; empty: it does not."""
    excesses = budget_excesses(row, budget)
    texts = {
        "bytes": f"{row.ram_bytes:.1f} B per vector",
        "recall": f"recall {row.recall:.3f}",
        "latency": f"{row.cpu_ms:.2f} ms per query",
    }
    return ", ".join(text for name, text in texts.items() if name in excesses)


def _verdict(findings: TuneFindings) -> str:
    nearest = findings.nearest
    if findings.chosen is None:
        excesses = describe_excesses(nearest, findings.budget)
        return f"**No recipe meets the budget.** The nearest is `{nearest.recipe}`: {excesses}."
    best = f"**`{findings.chosen.recipe}`** is the fastest that meets the budget; SPACE is image, text or product"
    return f"{best}:\n\n```sh\n{findings.command}\n```"


def _row(row: RecipeMeasurement, budget: TuneBudget) -> tuple[str, ...]:
    return (
        f"`{row.recipe}`",
        f"{row.ram_bytes:.1f}",
        f"{row.recall:.3f}",
        f"{row.recall_half:.3f} → {row.recall_sample:.3f}",
        f"{row.search_parameter} × {row.refine_factor}",
        f"{row.cpu_ms:.3f}",
        f"{row.cpu_ms_sample:.3f}",
        f"{row.pages:.0f}",
        describe_excesses(row, budget) or "yes",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _plot(path: Path, findings: TuneFindings) -> None:
    """Plot memory against time; hollow: the recall is out of reach. Labels are ASCII: not every font has more."""
    budget, frontier = findings.budget, pareto_front(findings.rows, findings.budget.recall)
    figure = import_plotting().Figure(figsize=(9, 5.5), layout="constrained")
    axes = figure.subplots()
    axes.plot(
        [row.ram_bytes for row in frontier], [row.cpu_ms for row in frontier], color="#4477aa", linewidth=1, zorder=1
    )
    for row in findings.rows:
        reached = row.recall >= budget.recall
        chosen = row is findings.chosen
        colour = "#228833" if chosen else "#4477aa" if row in frontier else "#999999"
        axes.scatter(row.ram_bytes, row.cpu_ms, s=60, color=colour if reached else "none", edgecolors=colour, zorder=2)
        label = row.recipe if reached else f"{row.recipe} ({row.recall:.2f})"
        axes.annotate(label, (row.ram_bytes, row.cpu_ms), xytext=(6, 5), textcoords="offset points", fontsize=8)
    axes.axvline(budget.bytes_per_vector, color="#cc3311", linestyle="--", linewidth=1)
    if budget.latency_ms is not None:
        axes.axhline(budget.latency_ms, color="#cc3311", linestyle="--", linewidth=1)
    axes.margins(x=0.15)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("bytes in memory per vector (dashed: the budget)")
    axes.set_ylabel(f"CPU ms per query at recall@{budget.k} >= {budget.recall:g}")
    axes.set_title(f"{findings.count:,} vectors of {findings.dim} dimensions; hollow: recall out of reach", fontsize=10)
    figure.savefig(path, dpi=_DPI, metadata={"Software": None})
