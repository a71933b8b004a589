"""Which versions of a location are kept, and which may go. Pure.

Kept are: the one that serves; the one that it replaced, to go back to; those that are pinned; the youngest `keep` of
the others; and those that no update has made, because nobody else could make them again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

DEFAULT_KEEP = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptVersion:
    """A version in a location. made_at: ISO 8601 in UTC, which sorts by time; empty: not known, so it is the oldest."""

    name: str
    made_at: str = ""
    made_by_update: bool = True


def removable_versions(
    versions: Iterable[KeptVersion], *, current: str, replaced: str, pinned: Collection[str] = (), keep: int
) -> list[str]:
    """The names of the versions that may be removed, the oldest first. `keep` counts beside those that must stay.

    Without a version that serves nothing is removable: it may be one of these.
    """
    if not current:
        return []
    must_stay = {current, replaced, *pinned}
    others = [each for each in versions if each.made_by_update and each.name not in must_stay]
    by_age = sorted(others, key=lambda each: (each.made_at, each.name))
    return [each.name for each in by_age[: max(0, len(by_age) - keep)]]
