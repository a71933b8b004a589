"""How much worse than the live release one may be that is let serve, and how much is looked at. Pure.

The figures behind the limits are in docs/releases.md: ordinary nights stay within them, those of a real catalogue by a
factor of two or more, and each spoiled night that was tried is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from lookalike.errors import BadSettings


@dataclass(frozen=True, kw_only=True)
class GateLimits:
    """Shares are of 1. A figure that is measured on a sample is refused only if chance does not explain it."""

    # Of the live release's products, and of its vectors in each space. A night replaces a few percent of a catalogue;
    # a file cut off half-way loses a third or more.
    max_lost_products: float = 0.10
    max_lost_vectors: float = 0.10
    # Of the categories with at least `min_category_products` products: smaller ones come and go by chance.
    max_lost_categories: float = 0.20
    min_category_products: int = 10
    # By how much the share of the largest category may grow: an export of one department is far beyond.
    max_dominance_rise: float = 0.20
    # By how much the share of rejected rows may grow. A renamed column or a changed price format rejects most rows.
    max_reject_rise: float = 0.02
    # Below what the build stated. It is measured by other queries, so two samples differ by chance, which is allowed
    # for besides; what is left is that a graph finds a little less once vectors of its own are hidden.
    max_recall_shortfall: float = 0.01
    recall_queries: int = 512  # Per shard and space: a standard error of half a percent.
    recall_comparisons: int = 200_000_000  # Exact ones in all, for as many fewer queries: 10 s of a core at 1024-d.
    # Of what golden queries must find. An encoder trained anew orders neighbours anew; a broken one finds nothing.
    min_golden_found: float = 0.90
    max_golden_gone: float = 0.50  # Of what they must find, gone from the catalogue: then they are too old to tell.
    # Of precision@10 by category, of the same products in both releases.
    max_precision_loss: float = 0.02
    # The largest distance of two distributions of scores (Kolmogorov and Smirnov's statistic).
    max_drift: float = 0.10  # By the same encoder: only other products come near.
    # By one trained anew, whose scores shift with its weights: the more, the smaller the catalogue (.38 of 1,000). What
    # its neighbours are is judged by `max_precision_loss` and golden queries; this is for vectors that say nothing.
    max_drift_retrained: float = 0.50
    sample: int = 1_000  # Products whose neighbours are compared.
    # Of a stored vector and the one that the release's own encoder gives. float16 vectors agree to 1e-6.
    min_self_cosine: float = 0.999
    self_test_products: int = 200
    # How many standard errors chance explains, beside what the limits allow: of six comparisons without any allowance,
    # one would refuse a good release on one of eight nights by two, on one of 120 by three.
    standard_errors: float = 3.0

    def __post_init__(self) -> None:
        for each in fields(self):
            if not (value := getattr(self, each.name)) >= 0:
                raise BadSettings(f"{each.name} {value}: must not be negative")
            if isinstance(each.default, int) and not value:
                raise BadSettings(f"{each.name}: must be at least 1")


DEFAULT_LIMITS = GateLimits()


def parse_limits(pairs: Sequence[str]) -> GateLimits:
    """The default limits with those that are named, as "max_drift=0.2". Raises BadSettings."""
    given: dict[str, Any] = {}
    types = {each.name: int if isinstance(each.default, int) else float for each in fields(GateLimits)}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in types:
            raise BadSettings(f"--limit {pair}: the gate has no such limit; it has {', '.join(types)}")
        try:
            given[name] = types[name](value)
        except ValueError:
            raise BadSettings(f"--limit {pair}: {value!r} is not a number") from None
    return replace(DEFAULT_LIMITS, **given)
