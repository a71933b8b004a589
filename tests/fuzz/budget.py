"""How many examples a fuzz test runs: few and always the same in `make test`, many and new ones in `make fuzz`. No I/O.

`make fuzz` runs with the Hypothesis profile "fuzz": random examples, four times as many a round, and those that failed
are kept in .hypothesis and tried first the next time.
"""

from __future__ import annotations

import functools
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

PROFILE = "fuzz"
_TIMES = 4
_KEPT: dict[str, Any] = {}  # Examples that failed, in Hypothesis' own database.
_FORGOTTEN: dict[str, Any] = {"database": None}
RAN: Counter[str] = Counter()  # Examples, by the module of the test.
TOOK_S: dict[str, float] = {}

OUTCOMES: Counter[str] = Counter()  # Of examples, by the module of the test and what it made of them.

settings.register_profile(PROFILE, max_examples=100)


def totals() -> list[str]:
    """What was run in this process, a line for each surface."""
    lines = [f"fuzz {surface}: {RAN[surface]} examples, {TOOK_S[surface]:.1f} s" for surface in sorted(RAN)]
    return lines + [f"fuzz   {name}: {count}" for name, count in sorted(OUTCOMES.items())]


def fuzz(examples: int, **strategies: Any) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """As Hypothesis' `given`, with a number of examples that follows the profile."""
    long = settings.get_current_profile_name() == PROFILE
    chosen = settings(
        max_examples=examples * _TIMES if long else examples,
        derandomize=not long,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=[each for each in Phase if each is not Phase.explain],
        print_blob=True,
        **(_KEPT if long else _FORGOTTEN),
    )

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        surface = test.__module__.rpartition(".")[2]

        @functools.wraps(test)
        def counted(*args: Any, **kwargs: Any) -> None:
            started_s = time.monotonic()
            try:
                test(*args, **kwargs)
            finally:
                RAN[surface] += 1
                TOOK_S[surface] = TOOK_S.get(surface, 0.0) + time.monotonic() - started_s

        return chosen(given(**strategies)(counted))

    return decorate
