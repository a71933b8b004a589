"""The tags of a product: few and short, each once, in order. Pure."""

from __future__ import annotations

from collections.abc import Iterable

MAX_TAGS = 32
TAG_BYTES = 64
SEPARATOR = "|"  # Where tags are one text: in CSV.


def split(text: str) -> list[str]:
    """Tags that were written as one text: "colour:red|women". Empty text holds none."""
    return text.split(SEPARATOR) if text.strip() else []


def checked(tags: Iterable[str]) -> list[str]:
    """Without space around them, without duplicates, sorted. Raises ValueError with what is wrong with them."""
    kept = sorted({tag.strip() for tag in tags})
    if "" in kept:
        raise ValueError("an empty tag")
    if (longest := max((len(tag.encode()) for tag in kept), default=0)) > TAG_BYTES:
        raise ValueError(f"a tag of {longest} bytes, {TAG_BYTES} are allowed")
    if len(kept) > MAX_TAGS:
        raise ValueError(f"{len(kept)} tags, {MAX_TAGS} are allowed")
    return kept
