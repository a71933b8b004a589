"""Formats an evaluation as Markdown and as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from pipeline.evaluation import neighbours, verdict
from pipeline.evaluation.cells import cell, interval, signed
from pipeline.evaluation.classification import NEIGHBOURS as VOTING_NEIGHBOURS
from pipeline.evaluation.classification import AbstentionPoint, ClassificationEvaluation
from pipeline.evaluation.comparison import Comparison
from pipeline.evaluation.duplicates import ThresholdQuality
from pipeline.evaluation.held_out import EvaluationData
from pipeline.evaluation.identity import MADE, STATED, IdentityQuality
from pipeline.evaluation.identity import METRICS as IDENTITY_METRICS
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.metrics import METRICS, RESAMPLES
from pipeline.evaluation.plots import labels_by_frequency
from pipeline.evaluation.retrieval import AUTO, CEILING, CHANCE, PolicyGain, RankingQuality, RetrievalEvaluation

MAX_ROWS = 30  # Labels in a table; the JSON has all of them.
_MAX_CONFUSIONS = 8


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """All results of an evaluation."""

    data: EvaluationData
    retrieval: RetrievalEvaluation
    identity: Sequence[IdentityQuality]
    comparisons: Sequence[Comparison]
    thresholds: Sequence[ThresholdQuality]
    classification: ClassificationEvaluation | None


@dataclass(frozen=True, kw_only=True)
class EvaluationRun:
    """Where and when an evaluation was run, with which options, and the pictures drawn."""

    date: str  # ISO 8601
    machine: str
    seed: int
    sample: int
    notes: Sequence[str] = field(default_factory=list)  # What could not be measured, and other remarks.
    pictures: Mapping[str, str] = field(default_factory=dict)  # File names by what they show.
    shown_queries: Sequence[int] = ()  # Rows of test products whose neighbours are shown.


def as_json(evaluation: Evaluation, run: EvaluationRun) -> dict[str, Any]:
    """The content of report.json."""
    data, retrieval, classification = evaluation.data, evaluation.retrieval, evaluation.classification
    return {
        "version": data.version,
        "encoders": dict(data.encoders),
        "products": data.product_count,
        "held_out": data.held_out_count,
        "missing_vectors": dict(data.missing_vectors),
        "seen_vectors": dict(data.seen_vectors),
        "complete": data.complete_count,
        "test_products": len(data.test.products),
        "date": run.date,
        "machine": run.machine,
        "seed": run.seed,
        "sample": run.sample,
        "policy": retrieval.policy.text,
        "notes": list(run.notes),
        "uninformative_labellings": list(retrieval.uninformative),
        "labellings": {labelling.title: _labelling_json(retrieval, labelling) for labelling in retrieval.labellings},
        "identity": [_identity_json(quality) for quality in evaluation.identity],
        "comparisons": [_comparison_json(comparison) for comparison in evaluation.comparisons],
        "duplicates": [asdict(quality) for quality in evaluation.thresholds],
        "classification": asdict(classification) if classification else None,
        "policy_gains": [_gain_json(gain) for gain in retrieval.policy_gains],
        "confusions": {
            space: [confusion._asdict() for confusion in confusions[:100]]
            for space, confusions in retrieval.confusions.items()
        },
    }


def _labelling_json(retrieval: RetrievalEvaluation, labelling: Labelling) -> dict[str, Any]:
    return {
        "labels": len(labelling.names),
        "queries": int(labelling.is_query.sum()),
        "by": {name: _column_json(column, labelling.title) for name, column in _columns(retrieval).items()},
        "partial_queries": {
            name: _column_json(column, labelling.title) for name, column in retrieval.partial_queries.items()
        },
    }


def _identity_json(quality: IdentityQuality) -> dict[str, Any]:
    return {
        "by": quality.kind,
        "queries": quality.queries,
        "products": quality.products,
        "methods": {
            name: {metric: _rounded(average) for metric, average in zip(IDENTITY_METRICS, averages, strict=True)}
            for name, averages in quality.methods.items()
        },
    }


def _column_json(column: RankingQuality, title: str) -> dict[str, Any]:
    averages = zip(METRICS, column.averages[title], strict=True)
    return {
        "averages": {
            metric: {"micro": _rounded(average.micro), "macro": _rounded(average.macro)} for metric, average in averages
        },
        "labels": {
            label: dict(zip(METRICS, _rounded(values.tolist()), strict=True))
            for label, values in column.by_label[title].items()
        },
    }


def _comparison_json(comparison: Comparison) -> dict[str, Any]:
    return {
        **asdict(comparison),
        "value": round(comparison.value, 6),
        "rival_value": round(comparison.rival_value, 6),
        "difference": _rounded(comparison.difference),
    }


def _gain_json(gain: PolicyGain) -> dict[str, Any]:
    return {
        "entry": gain.entry,
        "space": gain.space,
        "queries": gain.queries,
        "precision@10": {name: round(value, 6) for name, value in gain.precision.items()},
        "gain": {name: _rounded(average) for name, average in gain.gain.items()},
    }


def _rounded(values: Sequence[float]) -> list[float]:
    return [round(float(value), 6) for value in values]


def _columns(retrieval: RetrievalEvaluation) -> dict[str, RankingQuality]:
    return {**retrieval.spaces, AUTO: retrieval.auto, **retrieval.baselines}


def markdown(evaluation: Evaluation, run: EvaluationRun) -> str:
    """The content of report.md. Each section is a generator of lines, empty if it does not apply."""
    data, retrieval, classification = evaluation.data, evaluation.retrieval, evaluation.classification
    return _join(
        _head(data, run),
        verdict.verdict(retrieval, evaluation.identity, evaluation.comparisons),
        _notes(retrieval, run),
        neighbours.tables(data.test.products, retrieval, run.shown_queries, run.pictures.get("neighbours", "")),
        verdict.differences(evaluation.comparisons),
        _averages(retrieval, run),
        _identity(evaluation.identity),
        _thresholds(evaluation.thresholds),
        _policy(retrieval),
        _partial_queries(retrieval),
        _classification(classification, run),
        _by_label(retrieval, run),
        _confusions(retrieval, run),
        _definitions(retrieval, run),
    )


def summary(evaluation: Evaluation, run: EvaluationRun) -> str:
    """The content of summary.md: figures alone, without photos, titles and labels of the catalogue."""
    retrieval, figures = evaluation.retrieval, replace(run, pictures={})
    return _join(
        _head(evaluation.data, figures),
        verdict.verdict(retrieval, evaluation.identity, evaluation.comparisons),
        _notes(retrieval, figures),
        verdict.differences(evaluation.comparisons),
        _overview(retrieval),
        _identity(evaluation.identity),
        _thresholds(evaluation.thresholds),
        _partial_queries(retrieval),
        _classification(evaluation.classification, figures),
    )


def _join(*sections: Iterator[str]) -> str:
    return "\n".join("\n".join(part) for part in map(list, sections) if part).strip() + "\n"


def _head(data: EvaluationData, run: EvaluationRun) -> Iterator[str]:
    test_count = len(data.test.products)
    yield f"# Quality of version {data.version}"
    yield ""
    yield f"Measured on {run.date} by `lookalike encoders evaluate`, seed {run.seed}, on {run.machine}."
    yield ""
    yield "| space | encoder | dimensions | held-out products without a vector | test products with a seen vector |"
    yield "| --- | --- | ---: | ---: | ---: |"
    for space, encoder in data.encoders.items():
        dim = data.test.vectors[space].shape[1]
        yield f"| {space} | `{encoder}` | {dim:,} | {data.missing_vectors[space]:,} | {data.seen_vectors[space]:,} |"
    yield ""
    sample = "All of them" if test_count == data.complete_count else f"A random sample of {test_count:,} of them"
    yield (
        f"Of {data.product_count:,} products, {data.held_out_count:,} are held out: no encoder was trained on their "
        f"labels. {data.complete_count:,} of these have a vector in every space. {sample} are the test products, as "
        "queries and as neighbours. A seen vector equals that of a training product: the same photo, or a title of the "
        "same words."
    )
    yield ""


def _notes(retrieval: RetrievalEvaluation, run: EvaluationRun) -> Iterator[str]:
    if len(retrieval.uninformative) and retrieval.main_labelling is None:
        yield "All test products have the same label: every neighbour is relevant, and any vectors have precision 1."
        yield ""
    elif retrieval.uninformative:
        names = ", ".join(retrieval.uninformative)
        yield f"Not evaluated by: {names}. All products have the same label, or no two have."
        yield ""
    if run.notes:
        yield "## Notes"
        yield ""
    for note in run.notes:
        yield f"* {note}"
    if run.notes:
        yield ""


def _overview(retrieval: RetrievalEvaluation) -> Iterator[str]:
    if not retrieval.labellings:
        return
    titles = [labelling.title for labelling in retrieval.labellings]
    yield "## precision@10"
    yield ""
    yield (
        "Micro averages over the queries: "
        + ", ".join(
            f"{int(labelling.is_query.sum()):,} by {cell(labelling.title)} ({len(labelling.names):,} labels)"
            for labelling in retrieval.labellings
        )
        + "."
    )
    yield ""
    yield "| | " + " | ".join(map(cell, titles)) + " |"
    yield "| --- |" + " ---: |" * len(titles)
    for name, column in _columns(retrieval).items():
        texts = [interval(column.averages[title][0].micro, name in (CHANCE, CEILING)) for title in titles]
        yield f"| {name} | " + " | ".join(texts) + " |"
    yield ""


def _averages(retrieval: RetrievalEvaluation, run: EvaluationRun) -> Iterator[str]:
    if not retrieval.labellings:
        return
    yield "## Averages"
    yield ""
    for labelling in retrieval.labellings:
        queries = int(labelling.is_query.sum())
        yield f"### By {cell(labelling.title)}: {len(labelling.names):,} labels, {queries:,} queries"
        yield ""
        yield "| | " + " | ".join(f"{metric} {kind}" for metric in METRICS for kind in ("micro", "macro")) + " |"
        yield "| --- |" + " ---: |" * (2 * len(METRICS))
        for name, column in _columns(retrieval).items():
            exact = name in (CHANCE, CEILING)
            texts = [interval(average, exact) for pair in column.averages[labelling.title] for average in pair]
            yield f"| {name} | " + " | ".join(texts) + " |"
        yield ""
    yield from _picture(run, "averages", "precision@10 of spaces and baselines, with 95 % intervals")


def _identity(identity: Sequence[IdentityQuality]) -> Iterator[str]:
    if not identity:
        return
    yield "## The same product"
    yield ""
    for quality in identity:
        yield f"### By {quality.kind}: {quality.queries:,} queries among {quality.products:,} products"
        yield ""
        yield (
            "Held-out products find the others of the group that their tags state."
            if quality.kind == STATED
            else "Titles of held-out products, as another shop would write them, find the products that they are of."
            if quality.kind == MADE
            else "Photos of test products, as another shop would show them, find the products that they are of."
        )
        yield ""
        yield "| | " + " | ".join(IDENTITY_METRICS) + " |"
        yield "| --- |" + " ---: |" * len(IDENTITY_METRICS)
        for name, averages in quality.methods.items():
            yield f"| {name} | " + " | ".join(map(interval, averages)) + " |"
        yield ""


def _thresholds(thresholds: Sequence[ThresholdQuality]) -> Iterator[str]:
    if not thresholds:
        return
    yield "## Near-duplicates"
    yield ""
    yield (
        "The default `min_score` of `FindDuplicates`, chosen on calibration products when the version was built, on "
        "test products: the share of an answer that is the same product (precision), and of the others of the same "
        "product that are in the answer (recall), each a mean over queries; and the share of right ones among all hits "
        "together."
    )
    yield ""
    yield "| | by | min_score | precision stated | precision | recall stated | recall | of all hits | with an answer |"
    yield "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    for each in thresholds:
        stated = each.threshold
        precision = f"{stated.precision:.3f} | {interval(each.precision)}"
        recall = f"{stated.recall:.3f} | {interval(each.recall)}"
        texts = f"{precision} | {recall} | {each.pair_precision:.3f} | {each.answered:,} of {each.queries:,}"
        yield f"| {each.space} | {stated.measured_by} | {stated.min_score:.4f} | {texts} |"
    yield ""


def _policy(retrieval: RetrievalEvaluation) -> Iterator[str]:
    if retrieval.main_labelling is None:
        return
    spaces = list(retrieval.spaces)
    yield "## Gain of the policy"
    yield ""
    yield f"`{retrieval.policy.text}`; precision@10 by {cell(retrieval.main_labelling.title)}, micro."
    yield ""
    yield "| entry | space | queries | " + " | ".join([*spaces, AUTO, *(f"{AUTO} − {name}" for name in spaces)]) + " |"
    yield "| --- | --- | ---: |" + " ---: |" * (2 * len(spaces) + 1)
    for gain in retrieval.policy_gains:
        precision = [f"{gain.precision[name]:.3f}" for name in (*spaces, AUTO)]
        differences = [signed(gain.gain[name]) for name in spaces]
        texts = " | ".join([*precision, *differences])
        yield f"| {cell(gain.entry)} | {gain.space or '–'} | {gain.queries:,} | {texts} |"
    yield ""


def _partial_queries(retrieval: RetrievalEvaluation) -> Iterator[str]:
    if not retrieval.partial_queries or retrieval.main_labelling is None:
        return
    titles = [labelling.title for labelling in retrieval.labellings]
    yield "## Product space: queries by photo or title alone"
    yield ""
    yield "precision@10, micro, of queries by a photo or a title alone among products that have both."
    yield ""
    yield "| | " + " | ".join(map(cell, titles)) + " |"
    yield "| --- |" + " ---: |" * len(titles)
    for name, column in {**retrieval.spaces, **retrieval.partial_queries}.items():
        yield f"| {name} | " + " | ".join(interval(column.averages[title][0].micro) for title in titles) + " |"
    yield ""


def _classification(classification: ClassificationEvaluation | None, run: EvaluationRun) -> Iterator[str]:
    if classification is None:
        return
    points = next(iter(classification.methods.values())).abstention_points
    yield "## Category classification"
    yield ""
    yield (
        f"The whole path of {classification.test_products:,} held-out products. {classification.unseen_category:,} are "
        f"of a category that none of {classification.train_products:,} training products has"
        + (
            f", {classification.unknown_to_classifier:,} of one that the classifier does not know. "
            if classification.unknown_to_classifier
            else ". "
        )
        + "For a target precision, only answers are given whose confidence reached it on calibration products: the "
        "table has coverage (share answered) and precision (share of answers that are right)."
    )
    yield ""
    yield "| | accuracy | ECE | " + " | ".join(f"target {point.target_precision:.0%}" for point in points) + " |"
    yield "| --- | ---: | ---: |" + " ---: |" * len(points)
    for name, quality in classification.methods.items():
        texts = [_abstention(point) for point in quality.abstention_points]
        yield (
            f"| {name} | {interval(quality.accuracy)} | {quality.calibration_error:.3f} | " + " | ".join(texts) + " |"
        )
    yield ""
    yield from _picture(run, "reliability", "accuracy of answers by their confidence")


def _abstention(point: AbstentionPoint) -> str:
    return f"{point.coverage:.1%}, {point.precision:.1%}" if point.coverage else "never"


def _by_label(retrieval: RetrievalEvaluation, run: EvaluationRun) -> Iterator[str]:
    if not retrieval.labellings:
        return
    yield "## By label"
    yield ""
    yield f"precision@10, then recall@R, for which {CHANCE} is the same and {CEILING} is 1."
    yield ""
    columns = _columns(retrieval)
    with_recall = {name: column for name, column in columns.items() if name not in (CHANCE, CEILING)}
    for labelling in retrieval.labellings:
        labels = labels_by_frequency(labelling)
        yield f"### By {cell(labelling.title)}{f': the {MAX_ROWS} most frequent' if len(labels) > MAX_ROWS else ''}"
        yield ""
        yield from _label_table("precision@10", columns, labelling, labels[:MAX_ROWS])
        yield from _label_table("recall@R", with_recall, labelling, labels[:MAX_ROWS])
    yield from _picture(run, "precision", "precision@10 by label and space")


def _label_table(
    metric: str, columns: Mapping[str, RankingQuality], labelling: Labelling, labels: Sequence[str]
) -> Iterator[str]:
    metric_index = METRICS.index(metric)
    yield f"| | {metric} | products | " + " | ".join(columns) + " |"
    yield "| ---: | --- | ---: |" + " ---: |" * len(columns)
    for rank, label in enumerate(labels, 1):
        count = int((labelling.codes == labelling.names.index(label)).sum())
        texts = [f"{column.by_label[labelling.title][label][metric_index]:.3f}" for column in columns.values()]
        yield f"| {rank} | {cell(label)} | {count:,} | " + " | ".join(texts) + " |"
    yield ""


def _confusions(retrieval: RetrievalEvaluation, run: EvaluationRun) -> Iterator[str]:
    if retrieval.main_labelling is None:
        return
    yield "## Labels of irrelevant neighbours"
    yield ""
    yield f"By {cell(retrieval.main_labelling.title)}, the {_MAX_CONFUSIONS} most frequent pairs of each space."
    yield ""
    for space, confusions in retrieval.confusions.items():
        yield f"| {space}: queries of | have neighbours of | share of their 10 nearest | share of all irrelevant |"
        yield "| --- | --- | ---: | ---: |"
        for confusion in confusions[:_MAX_CONFUSIONS]:
            neighbour = cell(confusion.neighbour_label) or "no label"
            shares = f"{100 * confusion.share_of_neighbours:.0f} % | {100 * confusion.share_of_errors:.1f} %"
            yield f"| {cell(confusion.label)} | {neighbour} | {shares} |"
        yield ""
    yield from _picture(run, "confusion", "labels of the ten nearest, by label of the query")


def _definitions(retrieval: RetrievalEvaluation, run: EvaluationRun) -> Iterator[str]:
    if not retrieval.labellings:
        return
    yield "## How to read it"
    yield ""
    yield "Of a query with R relevant products (of its label) among the other n − 1 test products, ranked by cosine:"
    yield ""
    yield "* **precision@10**: relevant ones among the 10 nearest, divided by 10."
    yield "* **recall@R**: relevant ones among the R nearest, divided by R."
    yield "* **recall@100**: relevant ones among the 100 nearest, divided by R."
    yield "* **R-precision**, of the same product: others of the query's group among as many nearest, as a share."
    yield "* **micro**: mean over queries. **macro**: mean over labels of the mean over each label's queries."
    yield (
        f"* In brackets: 95 % intervals, percentiles of {RESAMPLES:,} bootstrap samples of the queries within their "
        "labels. Differences to AUTO are between results of the same queries."
    )
    yield "* Products whose label no other product has are relevant for no query, and are no queries."
    yield "* **ECE**: mean distance between confidence and accuracy over 15 bins of confidence (Guo et al. 2017)."
    yield (
        f"* **{VOTING_NEIGHBOURS} neighbours**: the most frequent category of the {VOTING_NEIGHBOURS} nearest training "
        "products; its share of them is the confidence."
    )
    yield f"* **{CHANCE}**: expected of a random ranking, R / (n − 1)."
    yield f"* **{CEILING}**: all relevant products first; precision@10 of a label with few products stays low."
    yield ""


def _picture(run: EvaluationRun, name: str, caption: str) -> Iterator[str]:
    if name in run.pictures:
        yield f"![{caption}]({run.pictures[name]})"
        yield ""
