"""States in a few lines how good neighbours are, and each baseline that is better. Pure: Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter

from pipeline.evaluation.baselines import RANDOM, UNTRAINED
from pipeline.evaluation.cells import cell, interval, signed
from pipeline.evaluation.comparison import RIVALS, Comparison
from pipeline.evaluation.identity import IdentityQuality
from pipeline.evaluation.labels import Labelling
from pipeline.evaluation.metrics import METRICS, Average
from pipeline.evaluation.retrieval import CEILING, RetrievalEvaluation


def verdict(
    retrieval: RetrievalEvaluation, identity: Sequence[IdentityQuality], comparisons: Sequence[Comparison]
) -> Iterator[str]:
    """What a reader of a few lines should know: how often neighbours are right, and everything that is better."""
    if retrieval.main_labelling is None:
        return
    yield "## Verdict"
    yield ""
    yield f"* {_category_sentence(retrieval, retrieval.main_labelling)}"
    for quality in identity:
        listed = _ranked({name: averages[0] for name, averages in quality.methods.items()})
        yield f"* **The same product, by {quality.kind}**, {quality.queries:,} queries, R-precision: {listed}."
    worse, better = sum(each.is_worse for each in comparisons), sum(each.is_better for each in comparisons)
    yield (
        f"* Of {len(comparisons)} comparisons with baselines and between spaces, on the same queries: {better} better, "
        f"{len(comparisons) - better - worse} without a difference that the queries show, {worse} worse."
    )
    yield ""
    if worse:
        yield "## Where others are better"
        yield ""
        losses = groupby(filter(attrgetter("is_worse"), comparisons), key=attrgetter("measure", "by", "space"))
        for _, group in losses:
            yield f"* {_loss_sentence(list(group))}"
        yield ""


def _category_sentence(retrieval: RetrievalEvaluation, labelling: Labelling) -> str:
    columns = {**retrieval.spaces, **retrieval.baselines}
    micro = {name: column.averages[labelling.title][0].micro for name, column in columns.items()}
    best_possible = micro.pop(CEILING).value
    return (
        f"**By {cell(labelling.title)}**, {len(labelling.names):,} labels, {int(labelling.is_query.sum()):,} queries, "
        f"the share of the 10 nearest that is right: {_ranked(micro)}. No ranking can exceed {best_possible:.3f}."
    )


def _ranked(averages: Mapping[str, Average]) -> str:
    """All by descending value; an interval for the best one."""
    names = sorted(averages, key=lambda name: -averages[name].value)
    rest = [f"{name} {averages[name].value:.3f}" for name in names[1:]]
    return "; ".join([f"{names[0]} {interval(averages[names[0]])}", *rest])


def _loss_sentence(losses: Sequence[Comparison]) -> str:
    """One sentence on those that are better than one space by one measure, the best first."""
    first = losses[0]
    by = f"By {cell(first.by)}" if first.measure == METRICS[0] else f"At finding the same product by {first.by}"
    ranked = sorted(losses, key=lambda loss: -loss.rival_value)
    rivals = [
        f"{_described(loss.rival)} ({loss.measure} {loss.rival_value:.3f} against {loss.value:.3f}, by "
        f"{-loss.difference.value:.3f} ({-loss.difference.high:.3f}–{-loss.difference.low:.3f}))"
        for loss in ranked
    ]
    verb = "is" if len(rivals) == 1 and first.rival != RANDOM else "are"
    return f"{by}, {' and '.join(rivals)} {verb} better than {_described(first.space)}."


def _described(name: str) -> str:
    if name == UNTRAINED:
        return f"an {name}"
    space, comma, query = name.partition(", ")
    return f"the {space} space{' queried by ' if comma else ''}{query}" if name in RIVALS else name


def differences(comparisons: Sequence[Comparison]) -> Iterator[str]:
    """A table with a row for each pair and a column for each measure."""
    if not comparisons:
        return
    measures = list(dict.fromkeys((comparison.measure, comparison.by) for comparison in comparisons))
    pairs = list(dict.fromkeys((comparison.space, comparison.rival) for comparison in comparisons))
    found = {(c.space, c.rival, c.measure, c.by): c for c in comparisons}
    yield "## Differences to baselines"
    yield ""
    yield (
        "The mean of the first less that of the second over the same queries, with its 95 % interval; **bold** where "
        "the second is better. Of 40 such intervals about one shows a loss, and one a gain, by chance."
    )
    yield ""
    heads = [f"{measure}, {cell(by)}" for measure, by in measures]
    yield "| | " + " | ".join(heads) + " |"
    yield "| --- |" + " ---: |" * len(measures)
    for space, rival in pairs:
        texts = [_difference_cell(found.get((space, rival, *measure))) for measure in measures]
        yield f"| {space} − {rival} | " + " | ".join(texts) + " |"
    yield ""


def _difference_cell(comparison: Comparison | None) -> str:
    if comparison is None:
        return ""
    return f"**{signed(comparison.difference)}**" if comparison.is_worse else signed(comparison.difference)
