"""Which space AUTO searches for a product, by its category: as the gateway's `auto_policy` reads it. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lookalike.errors import BadSettings
from lookalike.spaces import VECTOR_SPACES

DEFAULT = "fashion=product>image,*=product>text"  # That of the gateway.
REST = "*"


@dataclass(frozen=True, slots=True)
class Policy:
    """The spaces of a category, the first one that an index has: those of the longest path that it lies under."""

    text: str
    table: Mapping[str, Sequence[str]]  # With one for REST.

    @classmethod
    def parse(cls, text: str) -> Policy:
        """From "fashion=product>image,*=product>text". Raises BadSettings."""
        table: dict[str, Sequence[str]] = {}
        for entry in text.split(","):
            category, _, spaces = entry.strip().partition("=")
            wanted = tuple(spaces.split(">"))
            if not category or not set(wanted) <= set(VECTOR_SPACES) or len(set(wanted)) < len(wanted):
                raise BadSettings(f"--policy {entry!r}: not CATEGORY=SPACE or CATEGORY=SPACE>SPACE of {_NAMES}")
            if category in table:
                raise BadSettings(f"--policy {entry!r}: {category} is there already")
            table[category] = wanted
        if REST not in table:
            raise BadSettings(f"--policy: no entry for {REST} (every other category)")
        return cls(text, table)

    def entry(self, category: str) -> str:
        """The category of the entry that decides."""
        path = category
        while path:
            if path in self.table:
                return path
            path = path.rpartition("/")[0]
        return REST

    def space(self, category: str, built: Sequence[str]) -> str:
        """The space of a product that has a vector in each of those built, these in the contract's order."""
        return next((space for space in self.table[self.entry(category)] if space in built), built[0])


_NAMES = ", ".join(VECTOR_SPACES)
