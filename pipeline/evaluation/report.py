"""The report as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.evaluation.classification import NEIGHBOURS as VOTES
from pipeline.evaluation.classification import Abstention, Classification
from pipeline.evaluation.held_out import HeldOut
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.metrics import MEASURES, RESAMPLES, Average
from pipeline.evaluation.plots import NEIGHBOURS, frequent
from pipeline.evaluation.retrieval import AUTO, CEILING, CHANCE, Column, Judgement, Worth

ROWS = 30  # Labels in a table; all of them are in the JSON.
_CONFUSIONS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Findings:
    held: HeldOut
    judgement: Judgement
    classification: Classification | None


@dataclass(frozen=True, kw_only=True)
class Run:
    """What was measured where and when."""

    location: str
    catalogue: str
    date: str  # ISO 8601
    machine: str
    seed: int
    sample: int
    notes: Sequence[str] = field(default_factory=list)  # What could not be measured, and what to know of the rest.
    pictures: Mapping[str, str] = field(default_factory=dict)  # File by what it shows.
    queries: int = 0  # On the contact sheet.


def as_json(findings: Findings, run: Run) -> dict[str, Any]:
    held, judgement, classification = findings.held, findings.judgement, findings.classification
    return {
        "version": held.version,
        "encoders": dict(held.encoders),
        "products": held.products,
        "held_out": held.held_out,
        "lacking": dict(held.lacking),
        "known": dict(held.known),
        "complete": held.complete,
        "judged": len(held.judged.products),
        "date": run.date,
        "machine": run.machine,
        "seed": run.seed,
        "sample": run.sample,
        "policy": judgement.policy.text,
        "notes": list(run.notes),
        "trivial": list(judgement.trivial),
        "labellings": {labelling.title: _labelling_json(judgement, labelling) for labelling in judgement.labellings},
        "classification": asdict(classification) if classification else None,
        "policy_worth": [_worth_json(worth) for worth in judgement.worth],
        "confusions": {
            space: [confusion._asdict() for confusion in confusions[:100]]
            for space, confusions in judgement.confusions.items()
        },
    }


def _labelling_json(judgement: Judgement, labelling: Labelling) -> dict[str, Any]:
    return {
        "labels": len(labelling.names),
        "queries": int(labelling.asked.sum()),
        "by": {name: _column_json(column, labelling.title) for name, column in _columns(judgement).items()},
        "further": {name: _column_json(column, labelling.title) for name, column in judgement.further.items()},
    }


def _column_json(column: Column, title: str) -> dict[str, Any]:
    averages = zip(MEASURES, column.averages[title], strict=True)
    return {
        "averages": {
            measure: {"micro": _rounded(each.micro), "macro": _rounded(each.macro)} for measure, each in averages
        },
        "labels": {
            label: dict(zip(MEASURES, _rounded(values.tolist()), strict=True))
            for label, values in column.labels[title].items()
        },
    }


def _worth_json(worth: Worth) -> dict[str, Any]:
    return {
        "entry": worth.entry,
        "space": worth.space,
        "queries": worth.queries,
        "precision@10": {name: round(value, 6) for name, value in worth.precision.items()},
        "gain": {name: _rounded(average) for name, average in worth.gain.items()},
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 6) for value in values]


def _columns(judgement: Judgement) -> dict[str, Column]:
    return {**judgement.spaces, AUTO: judgement.auto, **judgement.baselines}


def markdown(findings: Findings, run: Run) -> str:
    held, judgement, classification = findings.held, findings.judgement, findings.classification
    parts = [
        _head(held, run),
        _notes(judgement, run),
        _averages(judgement, run),
        _policy(judgement),
        _further(judgement),
        _classification(classification, run),
        _by_label(judgement, run),
        _confused(judgement, run),
        _neighbours(judgement, run),
        _definitions(judgement, run),
    ]
    return "\n".join("\n".join(part) for part in map(list, parts) if part).strip() + "\n"


def _head(held: HeldOut, run: Run) -> Iterator[str]:
    judged = len(held.judged.products)
    yield f"# Quality of version {held.version}"
    yield ""
    yield f"Measured on {run.date} by `lookalike encoders evaluate`, seed {run.seed}, on {run.machine}."
    yield ""
    yield "| space | encoder | dimensions | held-out products without a vector | judged ones with a known vector |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for space, encoder in held.encoders.items():
        dim = held.judged.vectors[space].shape[1]
        yield f"| {space} | `{encoder}` | {dim:,} | {held.lacking[space]:,} | {held.known[space]:,} |"
    yield ""
    drawn = "all of them" if judged == held.complete else f"{judged:,} of them, drawn at random"
    yield (
        f"Of {held.products:,} products {held.held_out:,} are held out: nothing learnt from their labels. "
        f"{held.complete:,} of these have a vector in every space; judged are {drawn}, as queries and as neighbours. "
        "A known vector is that of a product to learn from too: the same photo, or a title of the same words."
    )
    yield ""


def _notes(judgement: Judgement, run: Run) -> Iterator[str]:
    if len(judgement.trivial) and judgement.main is None:
        yield "All judged products have one label: every neighbour is right, and any vectors would have precision 1."
        yield ""
    elif judgement.trivial:
        names = ", ".join(judgement.trivial)
        yield f"Not judged by: {names}. There, all products have one label, or no two have the same."
        yield ""
    for note in run.notes:
        yield f"* {note}"
    if run.notes:
        yield ""


def _averages(judgement: Judgement, run: Run) -> Iterator[str]:
    if not judgement.labellings:
        return
    yield "## Averages"
    yield ""
    for labelling in judgement.labellings:
        queries = int(labelling.asked.sum())
        yield f"### By {_cell(labelling.title)}: {len(labelling.names):,} labels, {queries:,} queries"
        yield ""
        yield "| | " + " | ".join(f"{measure} {kind}" for measure in MEASURES for kind in ("micro", "macro")) + " |"
        yield "| --- |" + " ---: |" * (2 * len(MEASURES))
        for name, column in _columns(judgement).items():
            exact = name in (CHANCE, CEILING)
            cells = [_interval(average, exact) for each in column.averages[labelling.title] for average in each]
            yield f"| {name} | " + " | ".join(cells) + " |"
        yield ""
    yield from _picture(run, "averages", "precision@10 of spaces and baselines, with 95 % intervals")


def _policy(judgement: Judgement) -> Iterator[str]:
    if judgement.main is None:
        return
    spaces = list(judgement.spaces)
    yield "## What the policy is worth"
    yield ""
    yield f"`{judgement.policy.text}`; precision@10 by {_cell(judgement.main.title)}, micro."
    yield ""
    yield "| entry | space | queries | " + " | ".join([*spaces, AUTO, *(f"{AUTO} − {name}" for name in spaces)]) + " |"
    yield "| --- | --- | ---: |" + " ---: |" * (2 * len(spaces) + 1)
    for worth in judgement.worth:
        precision = [f"{worth.precision[name]:.3f}" for name in (*spaces, AUTO)]
        gains = [_signed(worth.gain[name]) for name in spaces]
        cells = " | ".join([*precision, *gains])
        yield f"| {_cell(worth.entry)} | {worth.space or '–'} | {worth.queries:,} | {cells} |"
    yield ""


def _further(judgement: Judgement) -> Iterator[str]:
    if not judgement.further or judgement.main is None:
        return
    titles = [labelling.title for labelling in judgement.labellings]
    yield "## The product space, asked with less"
    yield ""
    yield "precision@10, micro, of queries by a photo or a title alone among products that have both."
    yield ""
    yield "| | " + " | ".join(map(_cell, titles)) + " |"
    yield "| --- |" + " ---: |" * len(titles)
    for name, column in {**judgement.spaces, **judgement.further}.items():
        yield f"| {name} | " + " | ".join(_interval(column.averages[title][0].micro) for title in titles) + " |"
    yield ""


def _classification(told: Classification | None, run: Run) -> Iterator[str]:
    if told is None:
        return
    asked = next(iter(told.ways.values())).abstentions
    yield "## Telling the category"
    yield ""
    yield (
        f"The whole path, of {told.judged:,} held-out products; {told.unknown:,} are of a category that none of "
        f"{told.voters:,} products to learn from has"
        + (f", {told.unpredicted:,} of one that the classifier does not know. " if told.unpredicted else ". ")
        + "Where a precision is asked for, only answers from a confidence on are given, which promised it on other "
        "products: the share answered, and the share of these that is right."
    )
    yield ""
    yield "| | accuracy | ECE | " + " | ".join(f"{each.precision:.0%} asked" for each in asked) + " |"
    yield "| --- | ---: | ---: |" + " ---: |" * len(asked)
    for name, way in told.ways.items():
        cells = [_abstention(each) for each in way.abstentions]
        yield f"| {name} | {_interval(way.accuracy)} | {way.calibration_error:.3f} | " + " | ".join(cells) + " |"
    yield ""
    yield from _picture(run, "reliability", "accuracy of answers by their confidence")


def _abstention(each: Abstention) -> str:
    return f"{each.answered:.1%}, {each.right:.1%}" if each.answered else "never"


def _by_label(judgement: Judgement, run: Run) -> Iterator[str]:
    if not judgement.labellings:
        return
    yield "## By label"
    yield ""
    yield f"precision@10, then recall@R: there, {CHANCE} is the same, and {CEILING} is 1."
    yield ""
    columns = _columns(judgement)
    recalled = {name: column for name, column in columns.items() if name not in (CHANCE, CEILING)}
    for labelling in judgement.labellings:
        labels = frequent(labelling)
        yield f"### By {_cell(labelling.title)}{f': the {ROWS} of most products' if len(labels) > ROWS else ''}"
        yield ""
        yield from _of_labels("precision@10", columns, labelling, labels[:ROWS])
        yield from _of_labels("recall@R", recalled, labelling, labels[:ROWS])
    yield from _picture(run, "precision", "precision@10 by label and space")


def _of_labels(
    measure: str, columns: Mapping[str, Column], labelling: Labelling, labels: Sequence[str]
) -> Iterator[str]:
    at = MEASURES.index(measure)
    yield f"| | {measure} | products | " + " | ".join(columns) + " |"
    yield "| ---: | --- | ---: |" + " ---: |" * len(columns)
    for place, label in enumerate(labels, 1):
        count = int((labelling.codes == labelling.names.index(label)).sum())
        cells = [f"{column.labels[labelling.title][label][at]:.3f}" for column in columns.values()]
        yield f"| {place} | {_cell(label)} | {count:,} | " + " | ".join(cells) + " |"
    yield ""


def _confused(judgement: Judgement, run: Run) -> Iterator[str]:
    if judgement.main is None:
        return
    yield "## Where wrong neighbours come from"
    yield ""
    yield f"By {_cell(judgement.main.title)}, the {_CONFUSIONS} most frequent pairs of each space."
    yield ""
    for space, confusions in judgement.confusions.items():
        yield f"| {space}: products of | have neighbours of | share of their 10 nearest | of all wrong neighbours |"
        yield "| --- | --- | ---: | ---: |"
        for each in confusions[:_CONFUSIONS]:
            neighbour = _cell(each.neighbour) or "no label"
            yield f"| {_cell(each.label)} | {neighbour} | {100 * each.share:.0f} % | {100 * each.wrong:.1f} % |"
        yield ""
    yield from _picture(run, "confusion", "labels of the ten nearest, by label of the query")


def _neighbours(judgement: Judgement, run: Run) -> Iterator[str]:
    if judgement.main is None or "neighbours" not in run.pictures:
        return
    yield "## Neighbours"
    yield ""
    yield (
        f"{run.queries} products of different labels, drawn at random, and their {NEIGHBOURS} nearest in each space: "
        f"blue frames have the product's {_cell(judgement.main.title)}, red ones another."
    )
    yield ""
    yield from _picture(run, "neighbours", "products and their nearest in each space")


def _definitions(judgement: Judgement, run: Run) -> Iterator[str]:
    if not judgement.labellings:
        return
    yield "## How to read it"
    yield ""
    yield "Of a product with R others of its label among the other n − 1 judged products, ranked by cosine:"
    yield ""
    yield "* **precision@10**: right ones among the 10 nearest, divided by 10."
    yield "* **recall@R**: right ones among the R nearest, divided by R."
    yield "* **recall@100**: right ones among the 100 nearest, divided by R."
    yield "* **micro**: mean over products. **macro**: mean over labels of the mean over each one's products."
    yield (
        f"* In brackets: 95 % intervals, percentiles of {RESAMPLES:,} bootstrap samples of the queries within their "
        "labels. The differences of AUTO are of the same queries."
    )
    yield "* Products whose label no other one has are nobody's right neighbour, and are not asked about."
    yield "* **ECE**: mean distance between confidence and accuracy over 15 bins of confidence (Guo et al. 2017)."
    yield f"* **{VOTES} neighbours**: the category of most of the nearest {VOTES} to learn from; its share of them."
    yield f"* **{CHANCE}**: expected of an order at random, R / (n − 1)."
    yield f"* **{CEILING}**: of an order in which all right ones come first; of a label of few products that is little."
    yield ""


def _picture(run: Run, name: str, what: str) -> Iterator[str]:
    if name in run.pictures:
        yield f"![{what}]({run.pictures[name]})"
        yield ""


def _interval(average: Average, exact: bool = False) -> str:
    if exact:
        return f"{average.value:.3f}"
    return f"{average.value:.3f} ({average.low:.3f}–{average.high:.3f})"


def _signed(average: Average) -> str:
    return f"{average.value:+.3f} ({average.low:+.3f} to {average.high:+.3f})".replace("-", "−")


def _cell(text: str) -> str:
    """Text from a catalogue as it may stand in a table of Markdown."""
    return "".join(f"\\{letter}" if letter in r"\`*_[]<>|" else letter for letter in " ".join(text.split()))
