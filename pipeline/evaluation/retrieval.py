"""Evaluates the neighbours that each space, AUTO and baselines find for held-out products. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt

from lookalike.errors import OperatorError
from pipeline.evaluation.held_out import ProductSample
from pipeline.evaluation.labels import CATEGORY, Labelling, find_labellings
from pipeline.evaluation.metrics import (
    Average,
    Confusion,
    MicroMacro,
    Ranking,
    ScoreRows,
    average_metrics,
    ceiling_metrics,
    chance_metrics,
    cosines,
    find_confusions,
    means_by_label,
    rank_neighbours,
)
from pipeline.evaluation.policy import SpacePolicy

F64 = npt.NDArray[np.float64]
AUTO, CHANCE, CEILING = "AUTO", "chance", "best possible"


@dataclass(frozen=True, kw_only=True, eq=False)
class RankingQuality:
    """The quality of one way to rank products, by labelling: averages in the order of METRICS, and means by label.

    precision (n,): precision@10 of each product as a query; 0 for products that are no queries.
    """

    nearest: npt.NDArray[np.int64]  # (n, 10); (n, 0) for bounds, which rank nothing.
    averages: Mapping[str, Sequence[MicroMacro]]
    by_label: Mapping[str, Mapping[str, F64]]
    precision: Mapping[str, F64]


@dataclass(frozen=True, kw_only=True, eq=False)
class PolicyGain:
    """What one entry of the policy gains on the products that it applies to: precision@10 by the main labelling."""

    entry: str
    space: str  # That the entry chooses; "" for all entries together.
    queries: int
    precision: Mapping[str, float]  # By space, and of AUTO.
    gain: Mapping[str, Average]  # AUTO's precision minus that of searching this one space for every product.


@dataclass(frozen=True, kw_only=True, eq=False)
class RetrievalEvaluation:
    """The quality of each space, of AUTO and of baselines on the test products."""

    labellings: Sequence[Labelling]  # The informative ones, from broad to narrow.
    uninformative: Sequence[str]  # Titles of the others: all products have the same label, or no two have.
    main_labelling: Labelling | None  # For plots and the policy: the finest informative labelling by category.
    spaces: Mapping[str, RankingQuality]
    auto: RankingQuality
    baselines: Mapping[str, RankingQuality]
    partial_queries: Mapping[str, RankingQuality]  # Queries by a photo or a title alone.
    policy: SpacePolicy
    chosen_spaces: Sequence[str]  # (n,) the space that the policy chooses for each product.
    policy_gains: Sequence[PolicyGain]
    confusions: Mapping[str, Sequence[Confusion]]  # By space, in the main labelling.


def evaluate_retrieval(
    test: ProductSample,
    policy: SpacePolicy,
    baselines: Mapping[str, Callable[[], ScoreRows]],
    *,
    seed: int,
    partial_queries: Mapping[str, Callable[[], ScoreRows]] | None = None,
    on_step: Callable[[str], None] = lambda step: None,
) -> RetrievalEvaluation:
    """Rank the test products by each space, baseline and partial query, and measure the rankings.

    on_step: called with a description of each step before it. Raises OperatorError if no two products share a label.
    """
    count = len(test.products)
    all_labellings = find_labellings(test.products)
    if not any(labelling.is_query.any() for labelling in all_labellings):
        raise OperatorError(
            f"of {count:,} held-out products with a vector in every space, no two have the same category: "
            "there is nothing to evaluate by"
        )
    labellings = [labelling for labelling in all_labellings if labelling.is_informative]
    main = _main_labelling(labellings)
    by_vectors = {name: partial(cosines, vectors) for name, vectors in test.vectors.items()}
    spaces = _rank_all(count, by_vectors, labellings, on_step)
    chosen = [policy.choose_space(product.category, tuple(spaces)) for product in test.products]
    auto = _auto_ranking(spaces, chosen)
    references = {**_rank_all(count, baselines, labellings, on_step), **_bounds(count, labellings)}
    partials = _rank_all(count, partial_queries or {}, labellings, on_step)
    on_step("computing intervals")
    return RetrievalEvaluation(
        labellings=labellings,
        uninformative=[labelling.title for labelling in all_labellings if not labelling.is_informative],
        main_labelling=main,
        spaces={name: _summarise(ranking, labellings, seed) for name, ranking in spaces.items()},
        auto=_summarise(auto, labellings, seed),
        baselines={name: _summarise(ranking, labellings, seed) for name, ranking in references.items()},
        partial_queries={name: _summarise(ranking, labellings, seed) for name, ranking in partials.items()},
        policy=policy,
        chosen_spaces=chosen,
        policy_gains=_policy_gains(test, policy, main, {**spaces, AUTO: auto}, chosen, seed=seed) if main else [],
        confusions={name: find_confusions(ranking.nearest, main) for name, ranking in spaces.items()} if main else {},
    )


def _rank_all(
    count: int,
    scorers: Mapping[str, Callable[[], ScoreRows]],
    labellings: Sequence[Labelling],
    on_step: Callable[[str], None],
) -> dict[str, Ranking]:
    """Rank `count` products by each scorer."""
    rankings = {}
    for name, make_score_rows in scorers.items():
        on_step(f"ranking by {name}")
        rankings[name] = rank_neighbours(count, make_score_rows(), labellings)
    return rankings


def _bounds(count: int, labellings: Sequence[Labelling]) -> dict[str, Ranking]:
    """The metrics of a random and of the best possible ranking, without neighbours."""
    no_neighbours = np.empty((count, 0), dtype=np.int64)
    return {
        name: Ranking(no_neighbours, {labelling.title: metrics(labelling) for labelling in labellings})
        for name, metrics in ((CHANCE, chance_metrics), (CEILING, ceiling_metrics))
    }


def _main_labelling(labellings: Sequence[Labelling]) -> Labelling | None:
    """The whole category path if it is informative; else its finest informative level; else a tag."""
    by_title = {labelling.title: labelling for labelling in labellings}
    levels = [labelling for labelling in labellings if labelling.title.startswith("level ")]
    return by_title.get(CATEGORY) or (levels[-1] if levels else next(iter(labellings), None))


def _auto_ranking(rankings: Mapping[str, Ranking], chosen: Sequence[str]) -> Ranking:
    """The ranking of AUTO: each query is ranked by the space that the policy chooses for it."""
    index_of = {name: i for i, name in enumerate(rankings)}
    spaces, rows = np.array([index_of[name] for name in chosen]), np.arange(len(chosen))
    nearest = np.stack([ranking.nearest for ranking in rankings.values()])[spaces, rows]
    titles = next(iter(rankings.values())).metrics
    metrics = {
        title: np.stack([ranking.metrics[title] for ranking in rankings.values()])[spaces, :, rows].T
        for title in titles
    }
    return Ranking(nearest, metrics)


def _summarise(ranking: Ranking, labellings: Sequence[Labelling], seed: int) -> RankingQuality:
    """Average the metrics of a ranking, with bootstrap intervals from the seed."""
    return RankingQuality(
        nearest=ranking.nearest,
        averages={
            labelling.title: average_metrics(
                ranking.metrics[labelling.title][:, labelling.is_query], labelling.codes[labelling.is_query], seed
            )
            for labelling in labellings
        },
        by_label={
            labelling.title: means_by_label(ranking.metrics[labelling.title], labelling) for labelling in labellings
        },
        precision={labelling.title: ranking.metrics[labelling.title][0] for labelling in labellings},
    )


def _policy_gains(
    test: ProductSample,
    policy: SpacePolicy,
    main: Labelling,
    rankings: Mapping[str, Ranking],
    chosen: Sequence[str],
    *,
    seed: int,
) -> list[PolicyGain]:
    """The gain of each entry that applies to a query, and of all entries together."""
    entries = np.array([policy.matching_entry(product.category) for product in test.products], dtype=object)
    precision = {name: ranking.metrics[main.title][0] for name, ranking in rankings.items()}
    gains = []
    for entry in policy.spaces_by_category:
        queries = main.is_query & (entries == entry)
        if queries.any():
            space = chosen[int(np.flatnonzero(queries)[0])]
            gains.append(_policy_gain(entry, space, queries, main, precision, seed=seed))
    return gains if len(gains) == 1 else [*gains, _policy_gain("all", "", main.is_query, main, precision, seed=seed)]


def _policy_gain(
    entry: str,
    space: str,
    queries: npt.NDArray[np.bool_],
    main: Labelling,
    precision: Mapping[str, F64],
    *,
    seed: int,
) -> PolicyGain:
    spaces = [name for name in precision if name != AUTO]
    differences = np.stack([precision[AUTO][queries] - precision[name][queries] for name in spaces])
    averages = average_metrics(differences, main.codes[queries], seed)
    return PolicyGain(
        entry=entry,
        space=space,
        queries=int(queries.sum()),
        precision={name: float(values[queries].mean()) for name, values in precision.items()},
        gain={name: average.micro for name, average in zip(spaces, averages, strict=True)},
    )
