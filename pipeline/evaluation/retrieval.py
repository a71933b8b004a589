"""What is found in each space for the judged products, beside what baselines find. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from lookalike.errors import OperatorError
from pipeline.evaluation.held_out import Part
from pipeline.evaluation.labels import CATEGORY, Labelling, labellings
from pipeline.evaluation.metrics import (
    Average,
    Averages,
    Confusion,
    Found,
    Scores,
    averages,
    by_label,
    ceiling,
    chance,
    confusions,
    cosines,
    found,
)
from pipeline.evaluation.policy import Policy

F64 = npt.NDArray[np.float64]
AUTO, CHANCE, CEILING = "AUTO", "chance", "best possible"


@dataclass(frozen=True, kw_only=True, eq=False)
class Column:
    """What one way of ordering the products gives, by labelling: averages in the order of MEASURES, means by label."""

    nearest: npt.NDArray[np.int64]  # (n, 10); (n, 0) where nothing is ordered.
    values: Mapping[str, F64]
    averages: Mapping[str, Sequence[Averages]]
    labels: Mapping[str, Mapping[str, F64]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Worth:
    """What the policy makes of the products that one of its entries decides about: precision@10 by `labelling`."""

    entry: str
    space: str  # That it chooses; "" for all entries together.
    queries: int
    precision: Mapping[str, float]  # By space, and of AUTO.
    gain: Mapping[str, Average]  # AUTO's less that of always searching one space.


@dataclass(frozen=True, kw_only=True, eq=False)
class Judgement:
    labellings: Sequence[Labelling]  # Those that tell one space from another, from broad to narrow.
    trivial: Sequence[str]  # Those that do not: everything is of one label, or nothing shares one.
    main: Labelling | None  # The finest of the category's; what pictures and the policy are judged by.
    spaces: Mapping[str, Column]
    auto: Column
    baselines: Mapping[str, Column]
    further: Mapping[str, Column]  # Other ways of asking, not of what is built.
    policy: Policy
    chosen: Sequence[str]  # (n,) the space of each product by the policy.
    worth: Sequence[Worth]
    confusions: Mapping[str, Sequence[Confusion]]  # By space, in the labelling `main`.


def judged(
    part: Part,
    policy: Policy,
    baselines: Mapping[str, Callable[[], Scores]],
    *,
    seed: int,
    further: Mapping[str, Callable[[], Scores]] | None = None,
    step: Callable[[str], None] = lambda what: None,
) -> Judgement:
    """Raises OperatorError where no two products share a label: then there is nothing to be found."""
    every = labellings(part.products)
    if not any(labelling.asked.any() for labelling in every):
        raise OperatorError(
            f"of {len(part.products):,} held-out products with a vector in every space, no two are of one category: "
            "nothing to judge by"
        )
    telling = [labelling for labelling in every if labelling.tells]
    main = _main(telling)
    spaces = ranked(
        len(part.products), {name: partial(cosines, each) for name, each in part.vectors.items()}, telling, step
    )
    chosen = [policy.space(product.category, tuple(spaces)) for product in part.products]
    auto = _auto(spaces, chosen)
    against = {**ranked(len(part.products), baselines, telling, step), **_bounds(len(part.products), telling)}
    asked = ranked(len(part.products), further or {}, telling, step)
    step("drawing intervals")
    return Judgement(
        labellings=telling,
        trivial=[labelling.title for labelling in every if not labelling.tells],
        main=main,
        spaces={name: column(each, telling, seed) for name, each in spaces.items()},
        auto=column(auto, telling, seed),
        baselines={name: column(each, telling, seed) for name, each in against.items()},
        further={name: column(each, telling, seed) for name, each in asked.items()},
        policy=policy,
        chosen=chosen,
        worth=_worths(part, policy, main, {**spaces, AUTO: auto}, chosen, seed=seed) if main else [],
        confusions={name: confusions(each.nearest, main) for name, each in spaces.items()} if main else {},
    )


def ranked(
    count: int, ways: Mapping[str, Callable[[], Scores]], telling: Sequence[Labelling], step: Callable[[str], None]
) -> dict[str, Found]:
    """What each way of scoring `count` products finds; `step` is told of each before."""
    given = {}
    for name, scores in ways.items():
        step(f"ranking by {name}")
        given[name] = found(count, scores(), telling)
    return given


def _bounds(count: int, telling: Sequence[Labelling]) -> dict[str, Found]:
    nothing = np.empty((count, 0), dtype=np.int64)
    return {
        name: Found(nothing, {labelling.title: bound(labelling) for labelling in telling})
        for name, bound in ((CHANCE, chance), (CEILING, ceiling))
    }


def _main(telling: Sequence[Labelling]) -> Labelling | None:
    """The whole path of the category; else its finest level that tells; else a tag."""
    by_title = {labelling.title: labelling for labelling in telling}
    levels = [labelling for labelling in telling if labelling.title.startswith("level ")]
    return by_title.get(CATEGORY) or (levels[-1] if levels else next(iter(telling), None))


def _auto(given: Mapping[str, Found], chosen: Sequence[str]) -> Found:
    """Each query's answer from the space that the policy chooses for it."""
    place = {name: at for at, name in enumerate(given)}
    at, rows = np.array([place[name] for name in chosen]), np.arange(len(chosen))
    nearest = np.stack([each.nearest for each in given.values()])[at, rows]
    titles = next(iter(given.values())).values
    values = {title: np.stack([each.values[title] for each in given.values()])[at, :, rows].T for title in titles}
    return Found(nearest, values)


def column(each: Found, telling: Sequence[Labelling], seed: int) -> Column:
    """Its averages, with intervals drawn by the seed."""
    return Column(
        nearest=each.nearest,
        values=each.values,
        averages={
            labelling.title: averages(
                each.values[labelling.title][:, labelling.asked], labelling.codes[labelling.asked], seed
            )
            for labelling in telling
        },
        labels={labelling.title: by_label(each.values[labelling.title], labelling) for labelling in telling},
    )


def _worths(
    part: Part, policy: Policy, main: Labelling, given: Mapping[str, Found], chosen: Sequence[str], *, seed: int
) -> list[Worth]:
    """Of every entry that decides about a query, and of all of them together."""
    entries = np.array([policy.entry(product.category) for product in part.products], dtype=object)
    precision = {name: each.values[main.title][0] for name, each in given.items()}
    worths = []
    for entry in policy.table:
        queries = main.asked & (entries == entry)
        if queries.any():
            worths.append(_worth(entry, chosen[int(np.flatnonzero(queries)[0])], queries, main, precision, seed=seed))
    return worths if len(worths) == 1 else [*worths, _worth("all", "", main.asked, main, precision, seed=seed)]


def _worth(
    entry: str,
    space: str,
    queries: npt.NDArray[np.bool_],
    main: Labelling,
    precision: Mapping[str, F64],
    *,
    seed: int,
) -> Worth:
    spaces = [name for name in precision if name != AUTO]
    gains = np.stack([precision[AUTO][queries] - precision[name][queries] for name in spaces])
    drawn = averages(gains, main.codes[queries], seed)
    return Worth(
        entry=entry,
        space=space,
        queries=int(queries.sum()),
        precision={name: float(values[queries].mean()) for name, values in precision.items()},
        gain={name: average.micro for name, average in zip(spaces, drawn, strict=True)},
    )
