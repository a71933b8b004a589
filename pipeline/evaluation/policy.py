"""The gateway's `auto_policy`: which space AUTO searches for a product, by its category. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import BadSettings
from lookalike.spaces import VECTOR_SPACES

DEFAULT = "fashion=product>image,*=product>text"  # The gateway's default.
ANY_CATEGORY = "*"


@dataclass(frozen=True, slots=True)
class SpacePolicy:
    """The spaces to search by category, in order of preference; the longest matching category path applies."""

    text: str
    spaces_by_category: Mapping[str, Sequence[str]]  # Always has ANY_CATEGORY.

    @classmethod
    def parse(cls, text: str) -> SpacePolicy:
        """Parse "fashion=product>image,*=product>text". Raises BadSettings."""
        spaces_by_category: dict[str, Sequence[str]] = {}
        for entry in text.split(","):
            category, _, preferences = entry.strip().partition("=")
            spaces = tuple(preferences.split(">"))
            if not category or not set(spaces) <= set(VECTOR_SPACES) or len(set(spaces)) < len(spaces):
                raise BadSettings(f"--policy {entry!r}: expected CATEGORY=SPACE or CATEGORY=SPACE>SPACE of {_NAMES}")
            if category in spaces_by_category:
                raise BadSettings(f"--policy {entry!r}: {category} has an entry already")
            spaces_by_category[category] = spaces
        if ANY_CATEGORY not in spaces_by_category:
            raise BadSettings(f"--policy: no entry for {ANY_CATEGORY} (every other category)")
        return cls(text, spaces_by_category)

    def matching_entry(self, category: str) -> str:
        """The category of the entry that applies: the longest path that contains `category`, or ANY_CATEGORY."""
        path = category
        while path:
            if path in self.spaces_by_category:
                return path
            path = path.rpartition("/")[0]
        return ANY_CATEGORY

    def choose_space(self, category: str, available: Sequence[str]) -> str:
        """The space for a product of this category; available: the spaces with its vectors, in the contract's order."""
        return next(
            (space for space in self.spaces_by_category[self.matching_entry(category)] if space in available),
            available[0],
        )


_NAMES = ", ".join(VECTOR_SPACES)
