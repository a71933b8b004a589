"""A view without the products that have expired, made anew only when another one does. Pure."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from index.search.segment import Segment
from index.search.view import View


class _Expired(NamedTuple):
    """A view without its products that have expired."""

    whole: View
    view: View
    until_s: float  # The next product expires then.


class ExpiringView:
    """Takes the products that have expired out of views. Thread-safe."""

    def __init__(self) -> None:
        self._latest: _Expired | None = None

    def at(self, view: View, now_s: float) -> View:
        """The view as it is at a Unix time in seconds, which does not fall from call to call."""
        latest = self._latest
        if latest is None or latest.whole is not view or now_s >= latest.until_s:
            segments, times_s = zip(*(_without_expired(segment, now_s) for segment in view.segments), strict=True)
            changed = any(one is not other for one, other in zip(segments, view.segments, strict=True))
            latest = self._latest = _Expired(
                view, View(segments, view.joint_indexes) if changed else view, min(times_s)
            )
        return latest.view


def _without_expired(segment: Segment, now_s: float) -> tuple[Segment, float]:
    """The segment without its expired products, and when the next one expires."""
    times_s, rows = segment.table.expiries
    count = int(np.searchsorted(times_s, now_s, side="right"))
    next_s = float(times_s[count]) if count < len(times_s) else math.inf
    return (segment.with_deleted(rows[:count]) if count else segment), next_s
