"""Gate: is the catalogue whole? Counts, categories and rejected rows against the live release. Pure but for reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lookalike.releases.manifest import Manifest
from pipeline.gate.limits import GateLimits
from pipeline.gate.report import Check, judged, not_compared

NAME, SHRINKAGE, REJECTS = "products", "shrinkage", "rejects"
_NAMED = 5


def check_products(candidate: Manifest, live: Manifest | None, limits: GateLimits) -> Check:
    """The number of products. An empty release is refused, whatever serves."""
    now = sum(candidate.products)
    if not now:
        return Check(name=NAME, passed=False, sentence="it has no product", figures={"products": 0})
    if live is None:
        return not_compared(NAME, f"nothing serves yet; it has {now:,} products", products=now)
    before = sum(live.products)
    refusals = [_loss("products", before, now, limits.max_lost_products)]
    summary = f"{now:,} products, the live release has {before:,}"
    return judged(NAME, [each for each in refusals if each], summary, {"products": now, "live": before})


def check_shrinkage(
    candidate: Manifest,
    live: Manifest | None,
    categories: Mapping[str, int],
    live_categories: Mapping[str, int] | None,
    limits: GateLimits,
) -> Check:
    """Vectors of each space, and categories. categories: products by category; None: the live release is not here."""
    if live is None:
        return not_compared(SHRINKAGE, "nothing serves yet")
    now = {space.name: sum(space.documents) for space in candidate.spaces}
    before = {space.name: sum(space.documents) for space in live.spaces}
    refusals = [
        _loss(f"{name} vectors", count, now.get(name, 0), limits.max_lost_vectors) for name, count in before.items()
    ]
    figures: dict[str, object] = {"vectors": now, "live_vectors": before}
    summary = ", ".join(f"{name} {now.get(name, 0):,} vectors (live {count:,})" for name, count in before.items())
    if live_categories is None:
        summary += "; categories not compared: the live release's products are not here"
    else:
        found, said = _category_refusals(categories, live_categories, limits, figures)
        refusals += found
        summary = f"{summary}; {said}" if summary else said
    return judged(SHRINKAGE, [each for each in refusals if each], summary, figures)


def check_rejects(candidate: Manifest, live: Manifest | None, limits: GateLimits) -> Check:
    """The share of rejected rows."""
    if candidate.origin is None or not candidate.origin.rows:
        return not_compared(REJECTS, "the release does not state what it was made of")
    now = candidate.origin.rejected / candidate.origin.rows
    if live is None or live.origin is None or not live.origin.rows:
        why = "nothing serves yet" if live is None else "the live release does not state what it was made of"
        return not_compared(REJECTS, f"{why}; {now:.2%} of the rows were rejected", rejected=now)
    before = live.origin.rejected / live.origin.rows
    summary = f"{now:.2%} of {candidate.origin.rows:,} rows were rejected, {before:.2%} for the live release"
    refusals = []
    if now - before > limits.max_reject_rise:
        refusals = [f"{summary}: a rise of more than {limits.max_reject_rise:.1%}"]
    return judged(REJECTS, refusals, summary, {"rejected": now, "live": before})


def _category_refusals(
    now: Mapping[str, int], before: Mapping[str, int], limits: GateLimits, figures: dict[str, object]
) -> tuple[list[str], str]:
    """What refuses, and a summary. Products without a category do not count."""
    now, before = ({name: count for name, count in each.items() if name} for each in (now, before))
    counted = [name for name, count in before.items() if count >= limits.min_category_products]
    gone = sorted((name for name in counted if name not in now), key=lambda name: -before[name])
    refusals = []
    if counted and len(gone) / len(counted) > limits.max_lost_categories:
        refusals.append(
            f"{len(gone)} of {len(counted)} categories are gone ({len(gone) / len(counted):.1%}, more than "
            f"{limits.max_lost_categories:.0%}): {_listed(gone)}"
        )
    largest = max(now, key=lambda name: now[name], default="")
    share, live_share = _largest_share(now), _largest_share(before)
    if share - live_share > limits.max_dominance_rise:
        refusals.append(
            f"{share:.1%} of the products are of the category {largest}; the largest of the live release has "
            f"{live_share:.1%}, a rise of more than {limits.max_dominance_rise:.0%}"
        )
    figures |= {
        "categories": len(now),
        "live_categories": len(before),
        "gone": gone[:_NAMED],
        "largest_share": share,
        "live_largest_share": live_share,
    }
    return refusals, f"{len(now):,} categories (live {len(before):,})"


def _largest_share(counts: Mapping[str, int]) -> float:
    return max(counts.values(), default=0) / max(1, sum(counts.values()))


def _loss(what: str, before: int, now: int, limit: float) -> str:
    """Why a smaller number is refused; empty: it is not."""
    if now >= before * (1 - limit):
        return ""
    return f"{now:,} {what}, the live release has {before:,}: a loss of {1 - now / before:.1%}, more than {limit:.0%}"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
