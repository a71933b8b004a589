"""The recall of the newest searches that were compared with exact ones, and its bounds. Pure."""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

# Of the newest searches: at a recall of .95 the bounds are less than 1.5 points apart, and a fall that live changes
# brought shows after some hundred more.
WINDOW = 4096
MIN_SAMPLES = 200  # Before that a shortfall of two or three points may be chance.
# Of both bounds, which 999 of 1,000 windows keep. They are looked at after every sample: at 1.96, 95 of 100, an index
# that keeps its promise would be called poor sooner or later.
Z = 3.3
_PROMISE_Z = 2.0  # Of the build's figure: it was drawn once, and is not looked at again and again.
# Live changes cost up to half a point (tests/unit/index/test_live_recall.py), which no rebuild of the day would mend.
MARGIN = 0.005


class PromisedRecall(NamedTuple):
    """recall@10 of a space as its build measured it."""

    recall: float
    standard_error: float


class RecallEstimate(NamedTuple):
    recall: float
    lower: float
    upper: float
    samples: int

    def falls_short_of(self, promised: PromisedRecall) -> bool:
        """Whether this recall is lower than promised by more than MARGIN, and by more than chance explains."""
        if self.samples < MIN_SAMPLES:
            return False
        chance = math.hypot(self.upper - self.recall, _PROMISE_Z * promised.standard_error)
        return self.recall + chance < promised.recall - MARGIN


class RecallWindow:
    """The newest `size` searches: how many of its true neighbours each has found."""

    def __init__(self, size: int = WINDOW) -> None:
        self._samples: deque[tuple[int, int]] = deque(maxlen=size)
        self._found = self._expected = 0
        # Of found², found · expected and expected².
        self._squares = [0, 0, 0]

    def add(self, found: int, expected: int) -> None:
        """found: of the `expected` true neighbours, of which there is one at least."""
        if len(self._samples) == self._samples.maxlen:
            self._count(*self._samples[0], -1)
        self._samples.append((found, expected))
        self._count(found, expected, 1)

    def _count(self, found: int, expected: int, sign: int) -> None:
        self._found += sign * found
        self._expected += sign * expected
        for i, product in enumerate((found * found, found * expected, expected * expected)):
            self._squares[i] += sign * product

    def estimate(self) -> RecallEstimate:
        """Wilson's interval, of as many neighbours as are independent.

        Those of one query are found or missed together, so that a share of all neighbours varies more than that of as
        many coins. By how much is estimated of the queries (the design effect of a ratio: Cochran, Sampling
        Techniques, chapter 6); Wilson's bounds stay apart where all was found, too.
        """
        samples, recall = len(self._samples), self._found / self._expected
        found2, mixed, expected2 = self._squares
        residual = found2 - 2 * recall * mixed + recall * recall * expected2
        coins = self._expected * recall * (1 - recall)
        effect = max(1.0, residual / coins) if coins else 1.0
        return RecallEstimate(recall, *_wilson(recall, self._expected / effect), samples)


def _wilson(share: float, trials: float) -> tuple[float, float]:
    """The lower and the upper bound (Wilson 1927)."""
    spread = Z * Z / trials
    centre = (share + spread / 2) / (1 + spread)
    half = Z / (1 + spread) * math.sqrt(share * (1 - share) / trials + spread / (4 * trials))
    return max(0.0, centre - half), min(1.0, centre + half)
