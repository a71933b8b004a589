"""What `lookalike index tune` found, as Markdown, JSON and a plot. Draws with matplotlib, writes files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from index.building.tune_choice import Budget, Measured, excesses, front
from lookalike.errors import OperatorError

_HEAD = ("recipe", "B/vector in RAM", "recall", "measured at half → all of the sample", "search_parameter × candidates")
_TAIL = ("CPU ms/query", "at the sample", "pages/query", "meets the budget")
_DPI = 120


@dataclass(frozen=True, kw_only=True)
class Findings:
    vectors: str
    count: int
    dim: int
    shards: int
    sample: int
    rescore: str
    machine: str
    date: str
    budget: Budget
    rows: Sequence[Measured]  # By rising memory.
    chosen: Measured | None
    nearest: Measured
    command: str

    @property
    def disk_bytes(self) -> float:
        """Full vectors and their rows, for each vector; what is in memory is on disk, too."""
        return self.dim * (2 if self.rescore == "float16" else 4) + 8


def plotting() -> Any:
    """matplotlib.figure, drawing into files alone. Raises OperatorError where it is not installed."""
    try:
        from matplotlib import figure
    except ImportError as error:
        raise OperatorError(f"the plot needs matplotlib ({error}): pip install 'lookalike[report]'") from None
    return figure


def prepare(folder: Path) -> None:
    """Make the folder, so that nothing is measured in vain. Raises OperatorError where it cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OperatorError(f"{folder}: no report can be written there: {error.strerror}") from error


def write(folder: Path, findings: Findings) -> None:
    """Into a folder that was prepared. Raises OperatorError."""
    try:
        (folder / "tune.md").write_text(markdown(findings), encoding="utf-8")
        (folder / "tune.json").write_text(json.dumps(as_json(findings), indent=1) + "\n", encoding="utf-8")
        _plot(folder / "tune.png", findings)
    except OSError as error:
        raise OperatorError(f"{folder}: {error}") from error


def as_json(findings: Findings) -> dict[str, Any]:
    return {**asdict(findings), "disk_bytes_per_vector": findings.disk_bytes}


def markdown(findings: Findings) -> str:
    lines = [
        "# Recipes for these vectors",
        "",
        f"{findings.count:,} vectors of {findings.dim} dimensions (`{findings.vectors}`) in {findings.shards}"
        f" shard(s), kept as {findings.rescore}: {findings.disk_bytes:,.0f} B a vector on disk, beside what is"
        f" in memory. Wanted: {told(findings.budget)}.",
        "",
        _verdict(findings),
        "",
        *_table((*_HEAD, *_TAIL), [_row(row, findings.budget) for row in findings.rows]),
        "",
        "![memory and time at the recall wanted](tune.png)",
        "",
        "## What was measured, and what was carried over",
        "",
        *(f"* {said}" for said in _assumptions(findings)),
    ]
    return "\n".join(lines) + "\n"


def _assumptions(findings: Findings) -> tuple[str, ...]:
    budget = findings.budget
    times = budget.documents / findings.sample
    off = max(abs(row.formula_off) for row in findings.rows)
    return (
        f"{findings.sample:,} of the vectors were indexed by every recipe, and half of them. The"
        f" recall@{budget.k} is that of vectors of the sample, each without itself, after full vectors of the"
        " candidates were compared.",
        f"A shard will hold {budget.documents:,}, {times:,.1f} times as many. **Memory** is by formula: codes,"
        f" ids, links, centroids, matrices. It differed from what the sample took by {off:.1%} at most.",
        "**Recall**: each doubling is taken to lose, with the same work, what was lost from half of the"
        " sample to all of it; what was gained is not counted. Where that was too little, more work was"
        " measured. The build measures again, on all vectors, and works as hard as it must.",
        "**CPU** is one core's time for one query at a time, full vectors being in memory, carried over by"
        " how much work lists, codes and candidates are.",
        "**Pages** of 4,096 B are the distinct ones that a query's candidates lie in: each is a read from the"
        f" disk where it is not in memory. Measured on {findings.machine}, {findings.date}.",
    )


def told(budget: Budget) -> str:
    wanted = f"recall@{budget.k} of {budget.recall:g} with at most {budget.bytes_per_vector:g} B a vector in memory"
    return wanted if budget.latency_ms is None else f"{wanted} and {budget.latency_ms:g} ms a query"


def lacking(row: Measured, budget: Budget) -> str:
    """Where a recipe fails the budget."""
    over = excesses(row, budget)
    said = {
        "bytes": f"{row.ram_bytes:.1f} B a vector",
        "recall": f"recall {row.recall:.3f}",
        "latency": f"{row.cpu_ms:.2f} ms a query",
    }
    return ", ".join(text for name, text in said.items() if name in over)


def _verdict(findings: Findings) -> str:
    near = findings.nearest
    if findings.chosen is None:
        return f"**None meets it.** The nearest is `{near.recipe}`: {lacking(near, findings.budget)}."
    best = f"**`{findings.chosen.recipe}`** is the fastest that meets it; SPACE is image, text or product"
    return f"{best}:\n\n```sh\n{findings.command}\n```"


def _row(row: Measured, budget: Budget) -> tuple[str, ...]:
    return (
        f"`{row.recipe}`",
        f"{row.ram_bytes:.1f}",
        f"{row.recall:.3f}",
        f"{row.recall_half:.3f} → {row.recall_sample:.3f}",
        f"{row.search_parameter} × {row.factor}",
        f"{row.cpu_ms:.3f}",
        f"{row.cpu_ms_sample:.3f}",
        f"{row.pages:.0f}",
        lacking(row, budget) or "yes",
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def _plot(path: Path, findings: Findings) -> None:
    """Memory against time; hollow: the recall is out of reach. Words are ASCII: other glyphs are not in every font."""
    budget, best = findings.budget, front(findings.rows, findings.budget.recall)
    drawn = plotting().Figure(figsize=(9, 5.5), layout="constrained")
    axes = drawn.subplots()
    axes.plot([row.ram_bytes for row in best], [row.cpu_ms for row in best], color="#4477aa", linewidth=1, zorder=1)
    for row in findings.rows:
        reached = row.recall >= budget.recall
        chosen = row is findings.chosen
        colour = "#228833" if chosen else "#4477aa" if row in best else "#999999"
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
    drawn.savefig(path, dpi=_DPI, metadata={"Software": None})
