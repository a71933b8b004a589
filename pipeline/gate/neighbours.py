"""Gate: are the neighbours of the same products as good as in the live release, and as near? Reads vectors.

Both checks look at the ten nearest to a sample of products that both releases have, as each release serves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.gate.limits import GateLimits
from pipeline.gate.report import Check, judged, not_compared
from pipeline.mapped_release import MappedRelease, ProductRow, RankedProducts, draw_common

NEIGHBOURS, DRIFT = "neighbours", "drift"
K = 10
MIN_SAMPLE = 100  # Fewer products tell nothing of a space.
F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ComparedNeighbours:
    """The ten nearest to products that two releases have, in one space of both."""

    space: str
    retrained: bool  # The space is of another encoder.
    products: Sequence[tuple[ProductRow, ProductRow]]  # In the live release, and in the candidate.
    before: Sequence[RankedProducts]
    now: Sequence[RankedProducts]


def compare_neighbours(
    live: MappedRelease, candidate: MappedRelease, count: int, seed: int
) -> list[ComparedNeighbours]:
    """For every space that both have, of at most `count` products."""
    compared = []
    for space in live.manifest.spaces:
        if (other := candidate.space(space.name)) is None:
            continue
        products = draw_common(live, candidate, space.name, count, seed)
        compared.append(
            ComparedNeighbours(
                space=space.name,
                retrained=other.encoder != space.encoder,
                products=products,
                before=live.nearest_to(space.name, [before for before, _ in products], K),
                now=candidate.nearest_to(space.name, [now for _, now in products], K),
            )
        )
    return compared


def check_neighbours(
    live: MappedRelease, candidate: MappedRelease, compared: Sequence[ComparedNeighbours], limits: GateLimits
) -> Check:
    """precision@10 by category: the share of the ten nearest that are of the product's own."""
    refusals, said, figures = [], [], dict[str, Mapping[str, float]]()
    for each in compared:
        before = _precisions(live, [product for product, _ in each.products], each.before)
        now = _precisions(candidate, [product for _, product in each.products], each.now)
        known = np.isfinite(before) & np.isfinite(now)
        if (count := int(known.sum())) < MIN_SAMPLE:
            continue
        losses = before[known] - now[known]
        loss, standard_error = float(losses.mean()), float(losses.std()) / count**0.5
        figures[each.space] = {
            "live": float(before[known].mean()),
            "now": float(now[known].mean()),
            "standard_error": standard_error,  # Of the difference.
            "products": count,
        }
        summary = (
            f"{each.space}: precision@10 by category {now[known].mean():.3f}, {before[known].mean():.3f} in the live "
            f"release (± {standard_error:.3f}, {count:,} products)"
        )
        said.append(summary)
        if loss > limits.max_precision_loss + limits.standard_errors * standard_error:
            refusals.append(f"{summary}: a loss of {loss:.3f}, more than {limits.max_precision_loss} and chance")
    if not said:
        return not_compared(NEIGHBOURS, f"fewer than {MIN_SAMPLE} products with a category are in both releases")
    return judged(NEIGHBOURS, refusals, "; ".join(said), figures)


def check_drift(compared: Sequence[ComparedNeighbours], limits: GateLimits) -> Check:
    """The distributions of the score of the nearest, and of the tenth."""
    refusals, said, figures = [], [], dict[str, Mapping[str, float]]()
    for each in compared:
        limit = limits.max_drift_retrained if each.retrained else limits.max_drift
        full = [
            (before.scores, now.scores)
            for before, now in zip(each.before, each.now, strict=True)
            if len(before.scores) == len(now.scores) == K
        ]
        if len(full) < MIN_SAMPLE:
            continue
        before, now = (np.stack(scores).astype(np.float64) for scores in zip(*full, strict=True))
        encoder = "an encoder trained anew" if each.retrained else "the same encoder"
        for rank, name in ((0, "nearest"), (K - 1, "tenth")):
            drift = ks_statistic(before[:, rank], now[:, rank])
            medians = float(np.median(before[:, rank])), float(np.median(now[:, rank]))
            figures[f"{each.space} {name}"] = {"drift": drift, "live": medians[0], "now": medians[1], "limit": limit}
            summary = (
                f"{each.space}: scores of the {name} drift by {drift:.3f}, median {medians[0]:.3f} → {medians[1]:.3f}"
            )
            said.append(summary)
            if drift > limit:
                refusals.append(f"{summary}: more than {limit} by {encoder}")
    if not said:
        return not_compared(DRIFT, f"fewer than {MIN_SAMPLE} products with ten neighbours are in both releases")
    return judged(DRIFT, refusals, "; ".join(said), figures)


def ks_statistic(one: F64, other: F64) -> float:
    """Kolmogorov and Smirnov's: the largest distance of the two samples' distribution functions."""
    values = np.concatenate([one, other])
    shares = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (one, other)]
    return float(np.abs(shares[0] - shares[1]).max())


def _precisions(release: MappedRelease, products: Sequence[ProductRow], ranked: Sequence[RankedProducts]) -> F64:
    """(n,) the share of each product's neighbours of its category; NaN: it has none, or no neighbour."""
    precisions = np.full(len(products), np.nan)
    for i, (at, found) in enumerate(zip(products, ranked, strict=True)):
        if (category := release.category(at)) and found.products:
            precisions[i] = sum(release.category(each) == category for each in found.products) / len(found.products)
    return precisions
