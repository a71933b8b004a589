"""The cost classes of a search, by the work that it needs. Pure.

Work is counted in components: comparing a query with one vector of 1024 dimensions is 1024 of them, in a product of
matrices, in a scan of rows, or, by measured equivalents, in an ANN index (`index.search.plan`).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from enum import Enum
from typing import NamedTuple

from lookalike.shard_query import ShardQuery

# 32,768 vectors of 1024 dimensions: 10 ms on one core for float32 vectors, 30 ms for float16. An ordinary search of
# 1,000,000 such vectors needs a tenth of it.
ORDINARY_COMPONENTS = 1 << 25


class CostClass(Enum):
    """Searches of one class never wait for those of another: each has threads of its own."""

    ORDINARY = "ordinary"  # No step of it compares more than ORDINARY_COMPONENTS.
    DEEP = "deep"  # Large k, a filter that leaves brute force over many vectors, grouping that few shops can fill.
    EXACT = "exact"  # Asked to be exact, over many vectors: such searches share passes over them.


def costly_class(query: ShardQuery) -> CostClass:
    """The class of a search that needs more work than an ordinary one."""
    return CostClass.EXACT if query.exact else CostClass.DEEP


def _no_check() -> None:
    return None


class WorkLimit(NamedTuple):
    """How much work a search may do."""

    components: float = math.inf  # In one step; a search that needs more is left undone.
    check: Callable[[], None] = _no_check  # Called between the parts of long work; raises to end it.

    def allows(self, components: float) -> bool:
        return components <= self.components


UNLIMITED = WorkLimit()
