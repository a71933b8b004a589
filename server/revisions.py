"""How far ahead of the clock the revision of a change may be. Pure."""

from __future__ import annotations

from lookalike.errors import InvalidRequest

_AHEAD_S = 86_400  # Clocks differ by less, and the units of revisions by more.


# How many there are in a second; none: revisions are no times, and any number is allowed.
_PER_S = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9, "none": 0}
REVISION_UNITS = tuple(_PER_S)


def max_revision(unit: str, now_s: float) -> int:
    """The greatest revision that a change may have: a day ahead of now, in the unit; 0: there is no bound.

    A greater one, such as a time in nanoseconds among milliseconds, would win over every later change.
    """
    return int((now_s + _AHEAD_S) * _PER_S[unit])


def check_revision(revision: int, greatest: int) -> None:
    """Raises InvalidRequest for 0, and for a revision above `greatest` (0: no bound)."""
    if not revision:
        raise InvalidRequest("revision", "is 0; it must be above 0, and greater than that of every earlier change")
    if 0 < greatest < revision:
        raise InvalidRequest(
            "revision", f"{revision} is more than a day ahead of now ({greatest}), in the unit that the gateway is told"
        )
